// Copyright (c) 2026 onprem.llm contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
//
// Asks llama.cpp itself what a model's file holds and what running it would allocate; nothing is loaded and no GPU is needed.
//
//   planner header METADATA.gguf HEADER.gguf FILE_TYPE     directives on standard input
//     Completes a GGUF of metadata only with the tensor table that llama.cpp's loader asks for; types as its quantizer
//     gives them for FILE_TYPE (the number in general.file_type). Directives, one a line:
//       with NAME       an optional tensor that the model has
//       integer NAME    a tensor of 32-bit integers
//       repeat A B      layer B has the tensors of layer A (a prediction layer, which the metadata must not count)
//       also NAME E [R] one more tensor, of R rows of E elements
//       final FILE      the metadata that the header gets instead
//   planner plan MODEL.gguf GPUS LAYERS [SHARES]           settings on standard input, plans on standard output
//     A setting a line, as JSON keys in this order: ctx np tk tv fa ub un swa_full nout. LAYERS on the GPUs; SHARES as in
//     tensor_split. Environment: EXPERTS_ON_HOST=n keeps the experts of the first n layers in host memory; EMBEDDINGS=1
//     asks for embeddings. MODEL must have its full length, which may be a hole.
//   planner length HEADER.gguf                             the length in bytes that the file has with its tensors
// BACKENDS is the directory of ggml's CPU backends.
#include "cuda_standin.hpp"
#include "gguf.h"
#include "llama-ext.h"
#include "llama.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <set>
#include <sstream>

// Exported by libllama, declared in no public header.
const std::vector<std::pair<std::string, ggml_tensor *>> & llama_internal_get_tensor_map(const llama_model * model);

namespace {

constexpr size_t GPU_BYTES = size_t(80) << 30;      // only the proportion between GPUs has an effect
std::string complaints;

[[noreturn]] void give_up(const std::string & why) {
    std::fprintf(stderr, "planner: %s\n", why.c_str());
    std::_Exit(2);                                   // ggml's exit handlers expect real devices
}

std::string printable(std::string text) {
    for (char & c : text) {
        if (c == '"' || c == '\\' || static_cast<unsigned char>(c) < ' ') {
            c = ' ';
        }
    }
    return text;
}

gguf_context * metadata(const std::string & path) {
    gguf_context * found = gguf_init_from_file(path.c_str(), {true, nullptr});
    if (!found) {
        give_up(path + " is no GGUF file");
    }
    return found;
}

// ---- header --------------------------------------------------------------------------------------------------------

struct Repeat { int from, to; };
struct Extra { std::string name; int64_t elements, rows; };
struct Wishes {
    std::vector<std::string> optional;
    std::set<std::string> integer;
    std::vector<Repeat> repeats;
    std::vector<Extra> extras;
    std::string final_metadata;
};

Wishes read_wishes() {
    Wishes wishes;
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string verb, name;
        if (!(words >> verb >> name)) {
            continue;
        }
        if (verb == "with") {
            wishes.optional.push_back(name);
        } else if (verb == "integer") {
            wishes.integer.insert(name);
        } else if (verb == "final") {
            wishes.final_metadata = name;
        } else if (verb == "repeat") {
            int to = 0;
            words >> to;
            wishes.repeats.push_back({std::stoi(name), to});
        } else if (verb == "also") {
            int64_t elements = 0, rows = 1;
            words >> elements >> rows;
            wishes.extras.push_back({name, elements, rows});
        } else {
            give_up("unknown directive: " + line);
        }
    }
    return wishes;
}

// llama.cpp makes a model from metadata alone, with the shapes that the architecture has. It wants to be told the number of
// tensors and says so if that is wrong: the second attempt adds as many names as the first one lacked.
llama_model * model_of(gguf_context *& meta, const char * path, const std::vector<std::string> & optional, ggml_backend_dev_t gpu) {
    ggml_backend_dev_t devices[] = {gpu, nullptr};
    int lacking = 0;
    for (int attempt = 0; attempt < 2; attempt++) {
        meta = metadata(path);
        ggml_context * names = ggml_init({ggml_tensor_overhead() * (optional.size() + lacking + 1), nullptr, true});
        const auto announce = [&](const std::string & name) {
            ggml_tensor * tensor = ggml_new_tensor_1d(names, GGML_TYPE_F32, 1);
            ggml_set_name(tensor, name.c_str());
            gguf_add_tensor(meta, tensor);
        };
        for (const std::string & name : optional) {
            announce(name);
        }
        for (int i = 0; i < lacking; i++) {
            announce("unnamed." + std::to_string(i));
        }
        llama_model_params params = llama_model_default_params();
        params.devices = devices;
        complaints.clear();
        if (llama_model * model = llama_model_init_from_user(meta, [](ggml_tensor *, void *) {}, nullptr, params)) {
            return model;
        }
        int told = 0, wanted = 0;
        const size_t at = complaints.find("expected ");
        if (at == std::string::npos || std::sscanf(complaints.c_str() + at, "expected %d, got %d", &told, &wanted) != 2) {
            break;
        }
        if (wanted < told) {
            give_up(std::to_string(told - wanted) + " of the optional tensors are unknown to the architecture");
        }
        lacking = wanted - told;
    }
    give_up(complaints);
}

int layer_of(const ggml_tensor * tensor) {
    int layer = -1;
    return std::sscanf(tensor->name, "blk.%d.", &layer) == 1 ? layer : -1;
}

int header(const char * metadata_path, const char * path, int file_type) {
    const Wishes wishes = read_wishes();
    const auto gpu = standin::gpus(1, size_t(8) << 40)[0];            // large enough for every weight as f32
    gguf_context * meta = nullptr;
    llama_model * model = model_of(meta, metadata_path, wishes.optional, gpu);

    std::vector<ggml_tensor *> tensors;
    std::set<std::string> names;
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(model)) {
        if (names.insert(name).second) {                               // tied embeddings are there twice
            tensors.push_back(tensor);
        }
    }
    for (const std::string & name : wishes.optional) {
        if (!names.count(name)) {
            give_up("the architecture does not take " + name);
        }
    }

    ggml_context * more = ggml_init({ggml_tensor_overhead() * 4096, nullptr, true});
    for (const Extra & extra : wishes.extras) {
        tensors.push_back(ggml_set_name(ggml_new_tensor_2d(more, GGML_TYPE_F32, extra.elements, extra.rows), extra.name.c_str()));
    }

    // Types: the quantizer's, which go by name and layer; what it leaves alone stays f32.
    llama_model_quantize_params how = llama_model_quantize_default_params();
    how.ftype = static_cast<llama_ftype>(file_type);
    quantize_state_impl * quantizer = llama_quant_init(model, &how);
    std::stable_sort(tensors.begin(), tensors.end(), [](auto * a, auto * b) { return layer_of(a) < layer_of(b); });
    std::vector<ggml_tensor *> weights;
    for (ggml_tensor * tensor : tensors) {
        if (ggml_n_dims(tensor) > 1 && !wishes.integer.count(tensor->name) && llama_quant_tensor_allows_quantization(quantizer, tensor)) {
            weights.push_back(tensor);
        }
    }
    std::vector<ggml_type> chosen(weights.size());
    llama_quant_compute_types(quantizer, how.ftype, weights.data(), chosen.data(), weights.size());
    std::map<std::string, ggml_type> types;
    for (size_t i = 0; i < weights.size(); i++) {
        types[weights[i]->name] = chosen[i];
    }
    for (const std::string & name : wishes.integer) {
        types[name] = GGML_TYPE_I32;
    }

    for (const Repeat & repeat : wishes.repeats) {
        const std::string from = "blk." + std::to_string(repeat.from) + ".", to = "blk." + std::to_string(repeat.to) + ".";
        for (size_t i = 0, n = tensors.size(); i < n; i++) {
            const std::string name = tensors[i]->name;
            if (name.rfind(from, 0) == 0) {
                const std::string again = to + name.substr(from.size());
                tensors.push_back(ggml_set_name(ggml_dup_tensor(more, tensors[i]), again.c_str()));
                if (types.count(name)) {
                    types[again] = types[name];
                }
            }
        }
    }
    std::stable_sort(tensors.begin(), tensors.end(), [](auto * a, auto * b) { return layer_of(a) < layer_of(b); });

    gguf_context * out = gguf_init_empty();
    gguf_set_kv(out, wishes.final_metadata.empty() ? meta : metadata(wishes.final_metadata));
    double parameters = 0;
    for (const ggml_tensor * tensor : tensors) {
        ggml_tensor entry = *tensor;
        const auto type = types.find(tensor->name);
        entry.type = type == types.end() ? GGML_TYPE_F32 : type->second;
        entry.buffer = nullptr;
        entry.data = nullptr;
        entry.view_src = nullptr;
        entry.nb[0] = ggml_type_size(entry.type);
        entry.nb[1] = ggml_row_size(entry.type, entry.ne[0]);
        for (int dim = 2; dim < GGML_MAX_DIMS; dim++) {
            entry.nb[dim] = entry.nb[dim - 1] * entry.ne[dim - 1];
        }
        gguf_add_tensor(out, &entry);
        parameters += ggml_nelements(tensor);
    }
    if (!gguf_write_to_file(out, path, true)) {
        give_up(std::string("cannot write ") + path);
    }
    std::printf("{\"parameters\":%.0f,\"tensors\":%zu}\n", parameters, tensors.size());
    return 0;
}

// ---- length --------------------------------------------------------------------------------------------------------

int length(const char * path) {
    gguf_context * file = metadata(path);
    size_t end = 0;
    for (int64_t i = 0; i < gguf_get_n_tensors(file); i++) {
        end = std::max(end, gguf_get_tensor_offset(file, i) + gguf_get_tensor_size(file, i));
    }
    std::printf("%zu\n", gguf_get_data_offset(file) + GGML_PAD(end, gguf_get_alignment(file)));
    return 0;
}

// ---- plan ----------------------------------------------------------------------------------------------------------

ggml_type cache_type(const std::string & name) {
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        const char * known = ggml_type_name(static_cast<ggml_type>(type));
        if (known && name == known) {
            return static_cast<ggml_type>(type);
        }
    }
    give_up("unknown cache type " + name);
}

int plan(const char * path, int gpu_count, int layers, const char * shares) {
    std::vector<ggml_backend_dev_t> devices = standin::gpus(gpu_count, GPU_BYTES);
    devices.push_back(nullptr);
    llama_model_params mp = llama_model_default_params();
    mp.devices = devices.data();
    mp.n_gpu_layers = gpu_count ? layers : 0;
    mp.no_alloc = true;
    mp.load_mode = LLAMA_LOAD_MODE_NONE;
    std::vector<float> split(llama_max_devices(), 0.0f);
    if (*shares) {
        std::istringstream numbers(shares);
        std::string number;
        for (size_t i = 0; std::getline(numbers, number, ','); i++) {
            split.at(i) = std::stof(number);
        }
        mp.tensor_split = split.data();
    }
    const char * wanted = std::getenv("EXPERTS_ON_HOST");
    const int on_host = wanted ? std::atoi(wanted) : 0;
    std::string pattern = "^blk\\.(";
    for (int layer = 0; layer < on_host; layer++) {
        pattern += (layer ? "|" : "") + std::to_string(layer);
    }
    pattern += ")\\.ffn_(gate|up|gate_up|down)_exps";
    const llama_model_tensor_buft_override overrides[] = {{pattern.c_str(), ggml_backend_cpu_buffer_type()}, {nullptr, nullptr}};
    if (on_host > 0) {
        mp.tensor_buft_overrides = overrides;
    }

    llama_model * model = llama_model_load_from_file(path, mp);
    if (!model) {
        std::printf("{\"error\": \"load: %s\"}\n", printable(complaints).c_str());
        return 2;
    }
    for (std::string line; std::getline(std::cin, line);) {
        int ctx, sequences, flash, ubatch, unified, swa_full, outputs;
        std::string key_type, value_type;
        std::istringstream words(line);
        if (!(words >> ctx >> sequences >> key_type >> value_type >> flash >> ubatch >> unified >> swa_full >> outputs)) {
            give_up("not a setting: " + line);
        }
        llama_context_params cp = llama_context_default_params();
        cp.n_ctx = ctx * sequences;
        cp.n_seq_max = sequences;
        cp.n_batch = cp.n_ubatch = ubatch;
        cp.type_k = cache_type(key_type);
        cp.type_v = cache_type(value_type);
        cp.flash_attn_type = static_cast<llama_flash_attn_type>(flash);
        cp.kv_unified = unified;
        cp.swa_full = swa_full;
        cp.n_outputs_max = outputs;
        cp.embeddings = std::getenv("EMBEDDINGS") != nullptr;
        complaints.clear();
        llama_context * context = llama_init_from_model(model, cp);
        if (!context) {
            std::printf("{\"error\": \"%s\"}\n", printable(complaints).c_str());
        } else {
            std::map<std::string, llama_memory_breakdown_data> places;
            for (const auto & [type, bytes] : llama_get_memory_breakdown(context)) {
                auto & place = places[ggml_backend_buft_is_host(type) ? "host" : ggml_backend_buft_name(type)];
                place.model += bytes.model;
                place.context += bytes.context;
                place.compute += bytes.compute;
            }
            const char * comma = "{";
            for (const auto & [name, bytes] : places) {
                std::printf("%s\"%s\": [%zu, %zu, %zu]", comma, name.c_str(), bytes.model, bytes.context, bytes.compute);
                comma = ", ";
            }
            std::printf("}\n");
            llama_free(context);
        }
        std::fflush(stdout);                       // llama.cpp may abort at the next one
    }
    return 0;
}

}  // namespace

int main(int argc, char ** argv) {
    llama_log_set(
        [](ggml_log_level level, const char * text, void *) {
            if (level == GGML_LOG_LEVEL_ERROR) {
                complaints += text;
            }
        },
        nullptr);
    if (const char * directory = std::getenv("BACKENDS")) {
        ggml_backend_load_all_from_path(directory);
    }
    const std::string command = argc > 1 ? argv[1] : "";
    int code;
    if (command == "header" && argc == 5) {
        code = header(argv[2], argv[3], std::atoi(argv[4]));
    } else if (command == "length" && argc == 3) {
        code = length(argv[2]);
    } else if (command == "plan" && (argc == 5 || argc == 6)) {
        code = plan(argv[2], std::atoi(argv[3]), std::atoi(argv[4]), argc == 6 ? argv[5] : "");
    } else {
        give_up("usage: planner header METADATA HEADER FILE_TYPE | planner length HEADER | planner plan MODEL GPUS LAYERS [SHARES]");
    }
    std::fflush(stdout);
    std::_Exit(code);
}
