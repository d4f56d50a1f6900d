/* A file system of a bad day: flock fails with NO_LOCKS set, and files below DENIED cannot be opened for writing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/types.h>

int flock(int fd, int operation) {
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    if (getenv("NO_LOCKS")) {
        errno = ENOLCK;
        return -1;
    }
    return real(fd, operation);
}

static int is_denied(const char *path, int flags) {
    const char *denied = getenv("DENIED");
    return denied && strncmp(path, denied, strlen(denied)) == 0 && (flags & (O_WRONLY | O_RDWR | O_CREAT));
}

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...) {                    \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
        va_list rest;                                               \
        va_start(rest, flags);                                      \
        mode_t mode = va_arg(rest, mode_t);                         \
        va_end(rest);                                               \
        if (is_denied(path, flags)) {                               \
            errno = EROFS;                                          \
            return -1;                                              \
        }                                                           \
        return real(path, flags, mode);                             \
    }

OPEN(open)
OPEN(open64)
