/* A monotonic clock at a fiftieth of its speed. Under callgrind a poll takes about fifty times as long as
   it does without. The pool measures its polls, and must take its decisions as it does without. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLOWER 50

int clock_gettime(clockid_t id, struct timespec *now) {
  long result = syscall(SYS_clock_gettime, id, now);
  if (result == 0 && id == CLOCK_MONOTONIC) {
    unsigned long long nanos = (now->tv_sec * 1000000000ULL + now->tv_nsec) / SLOWER;
    now->tv_sec = nanos / 1000000000ULL;
    now->tv_nsec = nanos % 1000000000ULL;
  }
  return result;
}
