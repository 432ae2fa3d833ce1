/* A time of day that is off by CLOCK_OFFSET seconds, for a program that is started with this preloaded. Only the time of
 * day: what waits, waits as long as ever. It allocates nothing and looks nothing up, since allocators ask for the time
 * before they work, and a program that brings its own would wait for itself. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) {
        const char *offset = getenv("CLOCK_OFFSET");
        now->tv_sec += offset ? atol(offset) : 0;
    }
    return (int)result;
}
