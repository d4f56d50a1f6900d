/* A stand-in for libnvidia-ml.so.1: as many GPUs as FAKE_GPUS says, each call failing with the NVML error in the
 * environment variable of its name (FAKE_PowerUsage=3), and the device FAKE_LOST lost (or not even found). Device 1 has
 * FAKE_USED_GIB_1 of its FAKE_TOTAL_GIB_1 in use. Each has FAKE_PROCESSES processes: FAKE_PID with 3 GiB, then FAKE_PID_1
 * with 1 MiB and so on. What the file FAKE_FILE says, one NAME=number a line, goes first: it
 * may change while the driver is in use.
 *
 *   gcc -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 nvml.c -o libnvidia-ml.so.1
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { int index; } *device_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned int gpu, memory; } rates_t;
typedef struct { unsigned int pid; unsigned long long bytes; unsigned int gpu_instance, compute_instance; } process_t;

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
static struct { int index; } devices[16] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7},
                                           {8}, {9}, {10}, {11}, {12}, {13}, {14}, {15}};
enum { INSTANCES = 8 }; /* from here on they are MIG instances: FAKE_INSTANCES of the device FAKE_MIG */
static const unsigned long long GIB = 1ULL << 30;

static int number(const char *name, int otherwise) {
    const char *value = getenv(name), *path = getenv("FAKE_FILE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[100];
    size_t length = strlen(name);
    int found = value ? atoi(value) : otherwise;
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, name, length) && line[length] == '=') found = atoi(line + length + 1);
    if (file) fclose(file);
    return found;
}
static unsigned long long gib(const char *name, int index, int otherwise) {
    char own[100];
    snprintf(own, sizeof own, "FAKE_%s_GIB_%d", name, index);
    return number(own, otherwise) * GIB;
}
/* 666 is no error of NVML's: it hangs until the file says otherwise; 667 takes the process along. */
enum { HANGS = 666, CRASHES = 667 };
static int told_of(const char *name) {
    int code;
    while ((code = number(name, OK)) == HANGS) usleep(20000);
    if (code == CRASHES) abort();
    return code;
}
#define FAIL_IF_TOLD(name) do { int code = told_of("FAKE_" name); if (code) return code; } while (0)
#define DEVICE_CALL(name) do { if (((device_t)device)->index == number("FAKE_LOST", -1)) return GPU_IS_LOST; \
                               FAIL_IF_TOLD(name); } while (0)

int nvmlInitWithFlags(unsigned int flags) { (void)flags; FAIL_IF_TOLD("Init"); return OK; }
int nvmlShutdown(void) { return OK; }
int nvmlSystemGetDriverVersion(char *text, unsigned int size) { snprintf(text, size, "575.00"); return OK; }
const char *nvmlErrorString(int code) {
    return code == NOT_SUPPORTED ? "Not Supported" : code == GPU_IS_LOST ? "GPU is lost" : "Some Error";
}
int nvmlDeviceGetCount_v2(unsigned int *count) { FAIL_IF_TOLD("Count"); *count = number("FAKE_GPUS", 2); return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    if ((int)index == number("FAKE_ABSENT", -1)) return GPU_IS_LOST;
    *device = &devices[index];
    return OK;
}
int nvmlDeviceGetIndex(void *device, unsigned int *index) { *index = ((device_t)device)->index; return OK; }
int nvmlDeviceGetName(void *device, char *text, unsigned int size) {
    DEVICE_CALL("Name");
    snprintf(text, size, "Fake GPU %d", ((device_t)device)->index);
    return OK;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned int size) {
    DEVICE_CALL("UUID");
    int index = ((device_t)device)->index;
    snprintf(text, size, index < INSTANCES ? "GPU-fake-%d" : "MIG-fake-%d", index < INSTANCES ? index : index - INSTANCES);
    return OK;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    DEVICE_CALL("MemoryInfo");
    unsigned long long total = gib("TOTAL", ((device_t)device)->index, 24), used = gib("USED", ((device_t)device)->index, 6);
    *memory = (memory_t){total, total - used, used};
    return OK;
}
#ifndef OLD_DRIVER
/* Newer drivers report what they keep for themselves apart from what is used. */
int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *memory) {
    DEVICE_CALL("MemoryInfo");
    memory->total = gib("TOTAL", ((device_t)device)->index, 24), memory->reserved = GIB;
    memory->used = gib("USED", ((device_t)device)->index, 5), memory->free = memory->total - GIB - memory->used;
    return OK;
}
#define PROCESSES(kind) nvmlDeviceGet##kind##RunningProcesses_v3
#else
#define PROCESSES(kind) nvmlDeviceGet##kind##RunningProcesses_v2
#endif
int nvmlDeviceGetUtilizationRates(void *device, rates_t *rates) {
    DEVICE_CALL("UtilizationRates");
    *rates = (rates_t){42 + ((device_t)device)->index, 7};
    return OK;
}
int nvmlDeviceGetMigMode(void *device, unsigned int *current, unsigned int *pending) {
    DEVICE_CALL("MigMode");
    if (((device_t)device)->index >= INSTANCES) return INVALID_ARGUMENT;
    *current = *pending = ((device_t)device)->index == number("FAKE_MIG", -1);
    return OK;
}
#ifndef OLD_DRIVER
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned int *count) {
    DEVICE_CALL("MaxMigDeviceCount");
    *count = 7;
    return OK;
}
/* The first place is empty, as after an instance was destroyed. */
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned int index, void **instance) {
    DEVICE_CALL("MigDeviceHandleByIndex");
    if (index < 1 || (int)index > number("FAKE_INSTANCES", 0)) return NOT_FOUND;
    *instance = &devices[INSTANCES + index];
    return OK;
}
#endif
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *degrees) {
    (void)sensor;
    DEVICE_CALL("Temperature");
    *degrees = 61;
    return OK;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
    DEVICE_CALL("PowerUsage");
    *milliwatts = 123000;
    return OK;
}
/* SW power cap and HW thermal slowdown; bit 0 is an idle GPU. */
#ifndef OLD_DRIVER
int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *reasons) {
#else
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
#endif
    DEVICE_CALL("ClocksEventReasons");
    *reasons = number("FAKE_REASONS", 1 + 4 + 64);
    return OK;
}
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned int *milliwatts) {
    DEVICE_CALL("PowerLimit");
    *milliwatts = 300000;
    return OK;
}
int PROCESSES(Compute)(void *device, unsigned int *count, process_t *processes) {
    unsigned int room = *count;
    DEVICE_CALL("ComputeRunningProcesses");
    *count = number("FAKE_PROCESSES", 1);
    if (room < *count || !processes) return INSUFFICIENT_SIZE;
    memset(processes, 0, *count * sizeof *processes);
    for (unsigned int place = 0; place < *count; place++) {
        char own[100];
        snprintf(own, sizeof own, "FAKE_PID_%u", place);
        processes[place].pid = number(own, number("FAKE_PID", 1));
        processes[place].bytes = getenv("FAKE_NO_PROCESS_MEMORY") ? ~0ULL : place ? place << 20 : 3 * GIB;
    }
    return OK;
}
int PROCESSES(Graphics)(void *device, unsigned int *count, process_t *processes) {
    (void)processes;
    DEVICE_CALL("GraphicsRunningProcesses");
    *count = 0;
    return OK;
}
