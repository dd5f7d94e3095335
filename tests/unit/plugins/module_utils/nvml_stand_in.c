/* Copyright (c) 2026 onprem.llm contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Stand-in for libnvidia-ml: GPU 0 answers, GPU 1 has MIG, GPU 2 is lost. Types as in nvml.h (NVML 13).
 * NVML_STAND_IN chooses a library in trouble: an nvmlReturn_t that nvmlInit_v2 gives, "hangs" or "crashes".
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int nvmlReturn_t;
typedef void *nvmlDevice_t;
enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, GPU_IS_LOST = 15 };

typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;
typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;
typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

static int handles[] = {0, 1, 2, 100};
#define NUMBER(device) (*(int *)(device))
#define MIB (1024ULL * 1024ULL)
#define COPY(text) do { if (length <= strlen(text)) return 7; strcpy(buffer, text); return SUCCESS; } while (0)

nvmlReturn_t nvmlInit_v2(void) {
    const char *trouble = getenv("NVML_STAND_IN");
    if (trouble == NULL) return SUCCESS;
    if (strcmp(trouble, "hangs") == 0) for (;;) sleep(60);
    if (strcmp(trouble, "crashes") == 0) raise(SIGSEGV);
    return atoi(trouble);
}
nvmlReturn_t nvmlShutdown(void) { return SUCCESS; }
nvmlReturn_t nvmlSystemGetDriverVersion(char *buffer, unsigned int length) { COPY("580.159.03"); }
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return SUCCESS; }
nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *buffer, unsigned int length) {
    if (pid != 4711) return NOT_FOUND;
    COPY("/usr/bin/ollama");
}
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) { *count = 3; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (index == 2) return GPU_IS_LOST;
    *device = &handles[index];
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *buffer, unsigned int length) {
    if (NUMBER(device) == 100) COPY("NVIDIA H200 MIG 1g.18gb");
    COPY("NVIDIA H200");
}
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *buffer, unsigned int length) {
    if (NUMBER(device) == 100) COPY("MIG-11111111-2222-3333-4444-555555555555");
    if (NUMBER(device) == 1) COPY("GPU-11111111-2222-3333-4444-555555555556");
    COPY("GPU-11111111-2222-3333-4444-555555555555");
}
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    if (memory->version != (sizeof(nvmlMemory_v2_t) | 2 << 24)) return 25;
    memory->total = (NUMBER(device) == 100 ? 16384 : 143771) * MIB;
    memory->reserved = 614 * MIB;
    memory->used = 55 * MIB;
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    (void)device;
    *major = 9, *minor = 0;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    memset(pci, 0xff, sizeof *pci);
    strcpy(pci->busIdLegacy, "0000:83:00.0");
    strcpy(pci->busId, NUMBER(device) == 1 ? "00000000:84:00.0" : "00000000:83:00.0");
    pci->pciDeviceId = 0x233510DE;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    *current = *pending = NUMBER(device) == 1;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
    (void)device;
    *count = 7;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *part) {
    if (NUMBER(device) != 1 || index != 3) return NOT_FOUND;
    *part = &handles[3];
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id) {
    *id = 9;
    return NUMBER(device) == 100 ? SUCCESS : NOT_SUPPORTED;
}
nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id) {
    *id = 0;
    return NUMBER(device) == 100 ? SUCCESS : NOT_SUPPORTED;
}
nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, int *current, int *pending) {
    (void)device;
    *current = 1, *pending = 0;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, int *active) { (void)device; *active = 0; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, int *mode) { (void)device; *mode = 1; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, int *mode) { (void)device; *mode = 0; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned int *degrees) {
    (void)device;
    *degrees = 28;
    return sensor == 0 ? SUCCESS : 2;
}
nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, int threshold, unsigned int *degrees) {
    (void)device;
    *degrees = 90;
    return threshold == 1 ? SUCCESS : NOT_SUPPORTED;
}
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power) { (void)device; *power = 78280; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *power) { (void)device; *power = 650000; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device, unsigned int *power) { (void)device; *power = 700000; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *least, unsigned int *most) {
    (void)device;
    *least = 200000, *most = 700000;
    return SUCCESS;
}
/* As before 535: the newer name, ...EventReasons, is not there. */
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    (void)device;
    *reasons = 0x40 | 0x8;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, int type, int counter, unsigned long long *count) {
    (void)device;
    *count = 5;
    return type == 1 && counter == 0 ? SUCCESS : 2;
}
nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending, unsigned int *failed) {
    if (NUMBER(device) == 1) return NOT_SUPPORTED;
    *corrected = 1, *uncorrected = 2, *pending = 1, *failed = 0;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, int *pending) {
    (void)device;
    (void)pending;
    return NOT_SUPPORTED;
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *rows) {
    if (NUMBER(device) == 1 || *count < 2) return NUMBER(device) == 1 ? NOT_SUPPORTED : 7;
    rows[0] = (nvmlProcessInfo_t){4711, 538 * MIB, 0xffffffff, 0xffffffff};
    rows[1] = (nvmlProcessInfo_t){4712, ~0ULL, 0xffffffff, 0xffffffff};
    *count = 2;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, int *active) {
    if (NUMBER(device) == 1 || link >= 18) return 2;
    *active = link != 7;
    return SUCCESS;
}
