/* SPDX-License-Identifier: MIT */
/*
 * The init process of a lab machine: runs the plan in the file /plan, reports the results on the
 * console, and switches the machine off. Each line of the plan is one of
 *
 *   load PATH                            load a kernel module
 *   write PATH TEXT                      write to a file of /sys or /proc
 *   test SECONDS NAME PROGRAM ARG...     run a test program
 *   show SECONDS NAME PROGRAM ARG...     run a program for its output only
 *
 * The reports begin with "LAB ":
 *
 *   LAB kernel RELEASE MACHINE
 *   LAB begin test|show NAME
 *   LAB end NAME exit|signal|timeout NUMBER MILLISECONDS
 *   LAB log NAME MESSAGE                 kernel message from that time
 *   LAB trouble WHAT
 *   LAB done
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	LINE_BYTES = 1000,
	MAX_WORDS = 40,
	LOG_BYTES = 1 << 20,
	KLOG_READ_AND_CLEAR = 4,
	KLOG_CLEAR = 5,
};

struct words {
	char *word[MAX_WORDS + 1];
	int count;
};

static void trouble(const char *what, const char *which, int error)
{
	printf("LAB trouble %s %s: %s\n", what, which, strerror(error));
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void mount_one(const char *type, const char *where)
{
	mkdir(where, 0755);
	if (mount(type, where, type, 0, NULL) && errno != EBUSY)
		trouble("mount", where, errno);
}

static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR);

	for (int i = 0; fd >= 0 && i < 3; i++)
		dup2(fd, i);
	setvbuf(stdout, NULL, _IOLBF, 0);
}

static void set_up(void)
{
	struct utsname host;

	mount_one("devtmpfs", "/dev");
	open_console();
	mount_one("proc", "/proc");
	mount_one("sysfs", "/sys");
	mount_one("tmpfs", "/tmp");
	setenv("LD_LIBRARY_PATH", "/lib", 1);
	setenv("CMOCKA_MESSAGE_OUTPUT", "stdout", 1);
	setenv("DIRTYLOG_PATIENCE", "10", 1);
	uname(&host);
	printf("\nLAB kernel %s %s\n", host.release, host.machine);
}

static void load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
		trouble("load", path, errno);
	if (fd >= 0)
		close(fd);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		trouble("write", path, errno);
	if (fd >= 0)
		close(fd);
}

static void run_child(char **arguments)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setpgid(0, 0);
	execv(arguments[0], arguments);
	printf("cannot run %s: %s\n", arguments[0], strerror(errno));
	fflush(stdout);
	_exit(127);
}

/* Waits for the child until the deadline. Returns 1, or 0 at the deadline. */
static int wait_until(pid_t child, long long deadline_ms, int *status)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	for (;;) {
		long long left_ms = deadline_ms - now_ms();
		struct timespec left = {
			.tv_sec = left_ms / 1000,
			.tv_nsec = left_ms % 1000 * 1000000,
		};

		if (waitpid(child, status, WNOHANG) == child)
			return 1;
		if (left_ms <= 0)
			return 0;
		sigtimedwait(&signals, NULL, &left);
	}
}

static void report_end(const char *name, int in_time, int status, long long took_ms)
{
	const char *how = !in_time ? "timeout" : WIFSIGNALED(status) ? "signal" : "exit";
	int number = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);

	printf("\nLAB end %s %s %d %lld\n", name, how, number, took_ms);
}

/* Kills and reaps the processes that a program has left. */
static void kill_group(pid_t group)
{
	kill(-group, SIGKILL);
	while (waitpid(-1, NULL, WNOHANG) > 0 || waitpid(-group, NULL, 0) > 0)
		;
}

static void print_kernel_log(const char *name)
{
	static char text[LOG_BYTES];
	int bytes = klogctl(KLOG_READ_AND_CLEAR, text, sizeof(text) - 1);
	char *rest = text, *line;

	text[bytes > 0 ? bytes : 0] = '\0';
	while ((line = strsep(&rest, "\n")))
		if (*line)
			printf("LAB log %s %s\n", name, line);
}

static void run(const struct words *words)
{
	long long begin_ms = now_ms();
	const char *name = words->word[2];
	int status = 0, in_time;
	pid_t child;

	printf("LAB begin %s %s\n", words->word[0], name);
	fflush(stdout);
	child = fork();
	if (child == 0)
		run_child((char **)&words->word[3]);
	if (child < 0) {
		trouble("fork", name, errno);
		return;
	}
	in_time = wait_until(child, begin_ms + atoll(words->word[1]) * 1000, &status);
	kill_group(child);
	report_end(name, in_time, status, now_ms() - begin_ms);
	print_kernel_log(name);
}

static void split(char *line, struct words *words)
{
	char *rest = line, *word;

	words->count = 0;
	while (words->count < MAX_WORDS && (word = strsep(&rest, " \n")))
		if (*word)
			words->word[words->count++] = word;
	words->word[words->count] = NULL;
}

static void run_line(char *line)
{
	struct words words;

	split(line, &words);
	if (words.count == 0 || words.word[0][0] == '#')
		return;
	if (!strcmp(words.word[0], "load") && words.count == 2)
		load(words.word[1]);
	else if (!strcmp(words.word[0], "write") && words.count == 3)
		write_file(words.word[1], words.word[2]);
	else if (words.count >= 4)
		run(&words);
	else
		trouble("plan", words.word[0], EINVAL);
}

static void run_plan(void)
{
	FILE *plan = fopen("/plan", "r");
	char line[LINE_BYTES];

	if (!plan) {
		trouble("open", "/plan", errno);
		return;
	}
	while (fgets(line, sizeof(line), plan))
		run_line(line);
	fclose(plan);
}

int main(void)
{
	sigset_t signals;

	set_up();
	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	/* Blocked, as sigtimedwait() requires. */
	sigprocmask(SIG_BLOCK, &signals, NULL);
	klogctl(KLOG_CLEAR, NULL, 0);
	run_plan();
	printf("LAB done\n");
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
