/* The benchmarks' daemon: writes "<name> <event> <CLOCK_MONOTONIC in ns>" when it starts and when it obeys SIGTERM.
 * Static C, so that the first instruction is not hidden behind a dynamic linker. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static char line[256];

static void stamp(const char *name, const char *event, int file)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	int n = snprintf(line, sizeof line, "%s %s %lld\n", name, event, t.tv_sec * 1000000000LL + t.tv_nsec);
	if (write(file, line, n) < 0)
		_exit(1);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "none";
	int file = open("/out/stamps", O_WRONLY | O_CREAT | O_APPEND, 0644);
	sigset_t set;
	int got;

	stamp(name, "start", file);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, 0);
	sigwait(&set, &got);
	stamp(name, "end", file);
	return 0;
}
