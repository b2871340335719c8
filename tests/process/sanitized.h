/* SPDX-License-Identifier: MIT */
#ifndef PROCESS_SANITIZED_H
#define PROCESS_SANITIZED_H

/*
 * SANITIZED: the program has a sanitizer, which may make system calls of its own at any time.
 * SANITIZED_THREADS: it is ThreadSanitizer.
 */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifndef SANITIZED
#define SANITIZED 0
#endif

#if defined(__SANITIZE_THREAD__)
#define SANITIZED_THREADS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SANITIZED_THREADS 1
#endif
#endif

#ifndef SANITIZED_THREADS
#define SANITIZED_THREADS 0
#endif

#endif
