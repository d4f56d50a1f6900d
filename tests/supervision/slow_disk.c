/* A disk that takes a second to have what was written, and tells in a file that it has begun. For LD_PRELOAD. */
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int fdatasync(int file) {
    struct timespec second = {1, 0};
    const char *told = getenv("SLOW_DISK_TELLS");
    if (told) close(open(told, O_CREAT | O_WRONLY, 0600));
    nanosleep(&second, NULL);
    return fsync(file);
}
