/* SPDX-License-Identifier: MIT */
/*
 * The library is unloaded while a thread lives that once called it. Argument: the shared library.
 * The program itself links neither it nor liburcu.
 */
#include <dirtylog/dirtylog.h>

#include "model.h"

#include "cmocka_all.h"

#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>

static const char *library;

static struct {
	__typeof__(dl_log_open) *log_open;
	__typeof__(dl_log_close) *log_close;
	__typeof__(dl_mark_gpa) *mark;
} calls;

static sem_t marked, unloaded;

static void *load(void *handle, const char *name)
{
	void *symbol = dlsym(handle, name);

	if (!symbol)
		fail_msg("%s: %s", name, dlerror());
	return symbol;
}

/* The call registers this thread with liburcu, whose destructor runs when the thread ends. */
static void *mark_and_outlive(void *log)
{
	calls.mark(log, 0, 0, 0);
	sem_post(&marked);
	sem_wait(&unloaded);
	return NULL;
}

static void a_thread_outlives_dlclose(void **state)
{
	struct model *model = model_new(NULL);
	struct dl_options options = { .size = sizeof(options), .os = model_os(model) };
	void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	struct dl_log *log;
	pthread_t thread;

	assert_non_null(model);
	if (!handle)
		fail_msg("%s", dlerror());
	calls.log_open = load(handle, "dl_log_open");
	calls.log_close = load(handle, "dl_log_close");
	calls.mark = load(handle, "dl_mark_gpa");
	sem_init(&marked, 0, 0);
	sem_init(&unloaded, 0, 0);
	assert_int_equal(calls.log_open(model_vm_create(model), &options, &log, NULL, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, mark_and_outlive, log), 0);
	sem_wait(&marked);
	calls.log_close(log);
	assert_int_equal(dlclose(handle), 0);
	sem_post(&unloaded);
	assert_int_equal(pthread_join(thread, NULL), 0);
	model_free(model);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_thread_outlives_dlclose),
	};

	if (argc != 2)
		return 2;
	library = argv[1];
	return RUN_TESTS("process: unloading", tests);
}
