// Copyright (c) 2026 onprem.llm contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
//
// GPUs for llama.cpp's memory planner that are not there: their buffers have a size and no memory, and they never compute.
// What decides how much llama.cpp asks for follows the CUDA backend of the same version (ggml/src/ggml-cuda/ggml-cuda.cu and
// fattn.cu, an NVIDIA GPU with tensor cores): alignment, padding of quantized rows, f16 copies of a quantized cache, the
// operations that stay on the host, and those that are worth copying a weight over for.
#pragma once

#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml.h"

#include <cstring>
#include <string>
#include <vector>

namespace standin {

constexpr size_t ALIGNMENT = 128;       // bytes; every tensor starts at a multiple
constexpr int64_t ROW_PADDING = 512;    // elements that quantized matrix kernels read at a time
constexpr int64_t OFFLOAD_ROWS = 32;    // rows from which on a weight in host memory is copied to the GPU

// ---- flash attention -----------------------------------------------------------------------------------------------

// Heads share a K/V head in one kernel only where nothing about the tensors is out of the ordinary.
inline bool grouped_heads(const ggml_tensor * op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *mask = op->src[3];
    float alibi_bias;
    std::memcpy(&alibi_bias, reinterpret_cast<const float *>(op->op_params) + 1, sizeof alibi_bias);
    if (q->ne[2] < 2 * k->ne[2] || mask == nullptr || alibi_bias != 0.0f || k->ne[1] % 256 != 0) {
        return false;
    }
    for (const ggml_tensor * t : {q, k, static_cast<const ggml_tensor *>(op->src[2]), mask}) {
        for (int dim = 1; dim < GGML_MAX_DIMS && !ggml_is_quantized(t->type); dim++) {
            if (t->nb[dim] % 16 != 0) {
                return false;
            }
        }
    }
    return true;
}

inline bool cache_type_known(ggml_type type) {
    static const ggml_type known[] = {GGML_TYPE_F32,  GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q4_0,
                                      GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_Q8_0};
    for (ggml_type one : known) {
        if (one == type) {
            return true;
        }
    }
    return false;
}

// Is there a kernel at all? The head sizes that one was compiled for, and what each asks of the others.
inline bool attention_kernel(const ggml_tensor * op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    if (!cache_type_known(k->type) || !cache_type_known(v->type) || (mask && mask->ne[2] != 1)) {
        return false;
    }
    const int64_t heads_per_kv = q->ne[2] / k->ne[2];
    const int64_t key = k->ne[0], value = v->ne[0];
    switch (key) {
        case 40: case 64: case 72: case 80: case 96: case 112: case 128: case 256:
            return value == key;
        case 192: return value == 128 && heads_per_kv % 8 == 0 && grouped_heads(op);
        case 320: return value == 256 && heads_per_kv % 32 == 0 && grouped_heads(op);
        case 512: return value == 512 && grouped_heads(op);
        case 576: return value == 512 && grouped_heads(op);
        default: return false;
    }
}

// The kernel for one or two tokens reads a quantized cache as it is; the others want f16 copies after the result.
inline bool reads_cache_in_place(const ggml_tensor * op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2];
    return q->ne[1] <= 2 && q->ne[0] % 64 == 0 && q->ne[0] <= 256 && q->ne[0] != 192 && k->ne[1] % 256 == 0 &&
           k->type == v->type;
}

inline size_t attention_bytes(const ggml_tensor * op, size_t bytes) {
    const ggml_tensor *k = op->src[1], *v = op->src[2];
    const auto copy = [&bytes](const ggml_tensor * cache) {
        bytes = GGML_PAD(bytes, ALIGNMENT) + ggml_nelements(cache) * ggml_type_size(GGML_TYPE_F16);
    };
    const bool v_within_k =
        v->view_src && (v->view_src == k || (v->view_src == k->view_src && v->view_offs == k->view_offs));
    if (k->type != GGML_TYPE_F16) {
        copy(k);
    }
    if (v->type != GGML_TYPE_F16 && !v_within_k) {
        copy(v);
    }
    return bytes;
}

// ---- memory --------------------------------------------------------------------------------------------------------

struct Gpu {
    std::string name;
    size_t bytes;                          // total memory, all of it free: what an even split goes by
    ggml_backend_buffer_type memory{};
    ggml_backend_device device{};
};

inline Gpu & gpu_of(ggml_backend_dev_t device) { return *static_cast<Gpu *>(device->context); }

inline ggml_backend_buffer_type & pinned_memory() {
    static ggml_backend_buffer_type type{};
    return type;
}

inline size_t alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    size_t bytes = ggml_nbytes(tensor);
    if (tensor->op == GGML_OP_FLASH_ATTN_EXT && attention_kernel(tensor) && !reads_cache_in_place(tensor)) {
        bytes = attention_bytes(tensor, bytes);
    }
    const int64_t rest = tensor->ne[0] % ROW_PADDING;
    if (ggml_is_quantized(tensor->type) && rest != 0) {
        bytes += ggml_row_size(tensor->type, ROW_PADDING - rest);
    }
    return bytes;
}

inline ggml_backend_buffer_t buffer_without_memory(ggml_backend_buffer_type_t type, size_t bytes) {
    ggml_backend_buffer_i calls{};
    calls.free_buffer = [](ggml_backend_buffer_t) {};
    // An address that nothing lives at: the planner calculates offsets from it and never follows it.
    calls.get_base = [](ggml_backend_buffer_t buffer) -> void * {
        return buffer->size ? reinterpret_cast<void *>(uintptr_t(1) << 44) : nullptr;
    };
    calls.memset_tensor = [](ggml_backend_buffer_t, ggml_tensor *, uint8_t, size_t, size_t) {};
    calls.set_tensor = [](ggml_backend_buffer_t, ggml_tensor *, const void *, size_t, size_t) {};
    calls.get_tensor = [](ggml_backend_buffer_t, const ggml_tensor *, void *, size_t, size_t) {};
    calls.clear = [](ggml_backend_buffer_t, uint8_t) {};
    return ggml_backend_buffer_init(type, calls, nullptr, bytes);
}

// ---- operations ----------------------------------------------------------------------------------------------------

inline bool full_precision(const ggml_tensor * tensor) {
    return tensor->type == GGML_TYPE_F32 || tensor->type == GGML_TYPE_F16;
}

inline bool takes(ggml_backend_dev_t, const ggml_tensor * op) {
    const ggml_tensor *a = op->src[0], *b = op->src[1];
    switch (op->op) {
        case GGML_OP_FLASH_ATTN_EXT:
            return attention_kernel(op);
        case GGML_OP_MUL_MAT_ID:
            if (op->op_params[3] == GGML_PREC_F32) {
                return false;
            }
            [[fallthrough]];
        case GGML_OP_MUL_MAT:
            return a->nb[0] == ggml_element_size(a) && b->nb[0] == ggml_element_size(b) &&
                   !(b->type == GGML_TYPE_F16 && a->type != GGML_TYPE_F16);
        case GGML_OP_ADD: case GGML_OP_SUB: case GGML_OP_MUL: case GGML_OP_DIV:
            return full_precision(a) && full_precision(b) && full_precision(op);
        case GGML_OP_REPEAT:
            return full_precision(a);
        case GGML_OP_CONCAT:
            return a->type == b->type;
        case GGML_OP_NORM: case GGML_OP_RMS_NORM: case GGML_OP_L2_NORM: case GGML_OP_SUM_ROWS: case GGML_OP_MEAN:
            return ggml_is_contiguous_rows(a);
        case GGML_OP_UNARY: case GGML_OP_GROUP_NORM:
            return ggml_is_contiguous(a);
        case GGML_OP_GLU:
            return ggml_is_contiguous_1(a);
        case GGML_OP_ROPE:
            return a->nb[0] == ggml_type_size(a->type) && ggml_is_contiguous_2(a);
        case GGML_OP_SSM_CONV:
            return a->ne[1] % 128 == 0;
        case GGML_OP_SSM_SCAN: {
            const bool one_decay_a_head = op->src[3]->ne[0] == 1;     // Mamba-2
            return one_decay_a_head ? (a->ne[0] == 128 || a->ne[0] == 256) && a->ne[1] % 16 == 0
                                    : a->ne[0] == 16 && a->ne[1] == 1 && a->ne[2] % 128 == 0 && op->src[4]->ne[1] == 1;
        }
        case GGML_OP_CONV_2D_DW:
            return a->type == GGML_TYPE_F32;
        default:
            return true;
    }
}

// An operation whose weight lies in host memory runs on the GPU from so many rows on.
inline bool worth_copying_over(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_GET_ROWS: return false;
        case GGML_OP_MUL_MAT: return op->ne[1] >= OFFLOAD_ROWS;
        case GGML_OP_MUL_MAT_ID: case GGML_OP_ROPE: return op->ne[2] >= OFFLOAD_ROWS;
        default: return ggml_nrows(op) >= OFFLOAD_ROWS;
    }
}

// ---- devices -------------------------------------------------------------------------------------------------------

inline ggml_backend_t backend(ggml_backend_dev_t device, const char *) {
    static uint8_t guid[16] = {0x6f, 0x6e, 0x70, 0x72, 0x65, 0x6d};
    ggml_backend_i calls{};
    calls.get_name = [](ggml_backend_t self) { return gpu_of(self->device).name.c_str(); };
    calls.free = [](ggml_backend_t self) { delete self; };
    calls.synchronize = [](ggml_backend_t) {};
    calls.graph_compute = [](ggml_backend_t, ggml_cgraph *) { return GGML_STATUS_SUCCESS; };
    // With events llama.cpp keeps several copies of a graph's inputs, so that GPUs work on successive batches at a time.
    calls.event_record = [](ggml_backend_t, ggml_backend_event_t) {};
    calls.event_wait = [](ggml_backend_t, ggml_backend_event_t) {};
    return new ggml_backend{&guid, calls, device, nullptr};
}

inline ggml_backend_reg_t registry() {
    static ggml_backend_reg reg{};
    reg.api_version = GGML_BACKEND_API_VERSION;
    reg.iface.get_name = [](ggml_backend_reg_t) { return "no GPU"; };
    reg.iface.get_device_count = [](ggml_backend_reg_t) -> size_t { return 0; };
    reg.iface.get_device = [](ggml_backend_reg_t, size_t) -> ggml_backend_dev_t { return nullptr; };
    return &reg;
}

inline ggml_backend_device_i device_calls() {
    ggml_backend_device_i calls{};
    calls.get_name = [](ggml_backend_dev_t device) { return gpu_of(device).name.c_str(); };
    calls.get_description = calls.get_name;
    calls.get_memory = [](ggml_backend_dev_t device, size_t * free, size_t * total) { *free = *total = gpu_of(device).bytes; };
    calls.get_type = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    calls.get_props = [](ggml_backend_dev_t device, ggml_backend_dev_props * props) {
        *props = {};
        props->name = props->description = gpu_of(device).name.c_str();
        props->type = GGML_BACKEND_DEVICE_TYPE_GPU;
        props->memory_free = props->memory_total = gpu_of(device).bytes;
        props->caps.async = props->caps.host_buffer = props->caps.events = true;
    };
    calls.init_backend = backend;
    calls.get_buffer_type = [](ggml_backend_dev_t device) { return &gpu_of(device).memory; };
    calls.get_host_buffer_type = [](ggml_backend_dev_t) { return &pinned_memory(); };
    calls.supports_op = takes;
    calls.supports_buft = [](ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
        return type == &gpu_of(device).memory;
    };
    calls.offload_op = worth_copying_over;
    calls.event_new = [](ggml_backend_dev_t device) { return new ggml_backend_event{device, nullptr}; };
    calls.event_free = [](ggml_backend_dev_t, ggml_backend_event_t event) { delete event; };
    calls.event_synchronize = [](ggml_backend_dev_t, ggml_backend_event_t) {};
    return calls;
}

// So many GPUs of so many bytes each, registered with ggml under the names that CUDA's have. They live until the end.
inline std::vector<ggml_backend_dev_t> gpus(int count, size_t bytes) {
    std::vector<ggml_backend_dev_t> devices;
    for (int i = 0; i < count; i++) {
        auto * gpu = new Gpu{"CUDA" + std::to_string(i), bytes};
        gpu->device = {device_calls(), registry(), gpu};
        gpu->memory.device = &gpu->device;
        gpu->memory.context = gpu;
        gpu->memory.iface.get_name = [](ggml_backend_buffer_type_t type) {
            return static_cast<Gpu *>(type->context)->name.c_str();
        };
        gpu->memory.iface.alloc_buffer = buffer_without_memory;
        gpu->memory.iface.get_alignment = [](ggml_backend_buffer_type_t) { return ALIGNMENT; };
        gpu->memory.iface.get_alloc_size = alloc_size;
        gpu->memory.iface.is_host = [](ggml_backend_buffer_type_t) { return false; };
        ggml_backend_device_register(&gpu->device);
        devices.push_back(&gpu->device);
    }
    if (count > 0) {                       // host memory that the GPU can read; ordinary memory here
        const ggml_backend_buffer_type_t host = ggml_backend_cpu_buffer_type();
        ggml_backend_buffer_type & pinned = pinned_memory();
        pinned = *host;
        pinned.device = devices[0];
        pinned.iface.get_name = [](ggml_backend_buffer_type_t) { return "CUDA_Host"; };
        pinned.iface.alloc_buffer = [](ggml_backend_buffer_type_t type, size_t size) {
            ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
            if (buffer) {
                buffer->buft = type;
            }
            return buffer;
        };
        pinned.iface.is_host = [](ggml_backend_buffer_type_t) { return true; };
    }
    return devices;
}

}  // namespace standin
