/* SPDX-License-Identifier: MIT */
#ifndef DLI_TSAN_H
#define DLI_TSAN_H

/* DLI_TSAN is defined in builds for ThreadSanitizer. */

#if defined(__SANITIZE_THREAD__)
#define DLI_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define DLI_TSAN 1
#endif
#endif

#endif
