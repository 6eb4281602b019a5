/* A monotonic clock for counts under callgrind. The pool measures its polls, and must take its decisions
   as it does without callgrind, whatever else the machine does. So the clock is the processor time of this
   process, at a fiftieth: callgrind makes a poll about fifty times as slow. With MILLPOND_CLOCK=real the
   clock follows the real one, for work that sleeps. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLOWER 50

static clockid_t source = CLOCK_PROCESS_CPUTIME_ID;

__attribute__((constructor)) static void choose(void) {
  const char *clock = getenv("MILLPOND_CLOCK");
  if (clock && strcmp(clock, "real") == 0) {
    source = CLOCK_MONOTONIC;
  }
}

int clock_gettime(clockid_t id, struct timespec *now) {
  long result = syscall(SYS_clock_gettime, id == CLOCK_MONOTONIC ? source : id, now);
  if (result == 0 && id == CLOCK_MONOTONIC) {
    unsigned long long nanos = (now->tv_sec * 1000000000ULL + now->tv_nsec) / SLOWER;
    now->tv_sec = nanos / 1000000000ULL;
    now->tv_nsec = nanos % 1000000000ULL;
  }
  return result;
}
