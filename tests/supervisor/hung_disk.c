/* A disk that never answers, for LD_PRELOAD: statvfs of a path that contains HUNG_DISK does not return. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

static void hang(const char *path) {
    const char *hung = getenv("HUNG_DISK");
    while (hung && strstr(path, hung)) pause();
}

int statvfs(const char *path, struct statvfs *told) {
    int (*real)(const char *, struct statvfs *) = dlsym(RTLD_NEXT, "statvfs");
    hang(path);
    return real(path, told);
}

int statvfs64(const char *path, struct statvfs64 *told) {
    int (*real)(const char *, struct statvfs64 *) = dlsym(RTLD_NEXT, "statvfs64");
    hang(path);
    return real(path, told);
}
