/* A slow disk, for LD_PRELOAD. fdatasync takes a second and reports in the file SLOW_DISK_MARKER that it has begun;
   fsync takes SLOW_FSYNC_MS milliseconds, by default none. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int fsync(int file) {
    const char *wanted = getenv("SLOW_FSYNC_MS");
    long ms = wanted ? atol(wanted) : 0;
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
    return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    struct timespec second = {1, 0};
    const char *marker = getenv("SLOW_DISK_MARKER");
    if (marker) close(open(marker, O_CREAT | O_WRONLY, 0600));
    nanosleep(&second, NULL);
    return (int)syscall(SYS_fsync, file);
}
