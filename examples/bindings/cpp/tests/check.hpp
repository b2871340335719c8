/* SPDX-License-Identifier: MIT */
#ifndef CPP_TESTS_CHECK_HPP
#define CPP_TESTS_CHECK_HPP

#include <cstdio>
#include <unistd.h>

/* Reports as cmocka does, so that each test is counted. A failure ends the program. */

inline const char *running;

[[noreturn]] inline void fail(const char *file, int line, const char *what)
{
	std::printf("%s:%d: %s\n[  FAILED  ] %s\n", file, line, what, running);
	std::fflush(stdout);
	_exit(1);
}

#define FAIL(what) fail(__FILE__, __LINE__, what)

#define CHECK(condition)                                      \
	do {                                                  \
		if (!(condition))                             \
			fail(__FILE__, __LINE__, #condition); \
	} while (0)

struct test {
	const char *name;
	void (*run)();
};

template <std::size_t n> int run_all(const test (&tests)[n])
{
	std::printf("[==========] Running %zu test(s).\n", n);
	for (const test &test : tests) {
		running = test.name;
		std::printf("[ RUN      ] %s\n", running);
		test.run();
		std::printf("[       OK ] %s\n", running);
	}
	std::printf("[==========] %zu test(s) run.\n", n);
	return 0;
}

#endif
