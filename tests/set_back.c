/* Loaded before a program (LD_PRELOAD), sets the wall clock that it sees back by a day as soon as the file named in
   SET_BACK is there, and lets it run backwards from then on: whatever is timed with it comes out negative. The monotonic
   clocks go on, as they do when a machine's clock is set. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000LL
#define DAY_NS (86400 * SECOND_NS)

static int64_t read_ns(clockid_t clock)
{
    struct timespec now;
    syscall(SYS_clock_gettime, clock, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static int64_t wall_ns(void)
{
    static int64_t since_ns;
    const char *file = getenv("SET_BACK");
    int64_t now_ns = read_ns(CLOCK_REALTIME);
    if (!file || access(file, F_OK) != 0)
        return now_ns;
    if (!since_ns)
        since_ns = now_ns;
    return since_ns - DAY_NS - (now_ns - since_ns);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
        return syscall(SYS_clock_gettime, clock, now);
    int64_t ns = wall_ns();
    now->tv_sec = ns / SECOND_NS;
    now->tv_nsec = ns % SECOND_NS;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone;
    int64_t ns = wall_ns();
    now->tv_sec = ns / SECOND_NS;
    now->tv_usec = ns % SECOND_NS / 1000;
    return 0;
}

time_t time(time_t *where)
{
    time_t now = wall_ns() / SECOND_NS;
    if (where)
        *where = now;
    return now;
}
