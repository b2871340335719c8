/* SPDX-License-Identifier: MIT */
#ifndef GUEST_RACY_H
#define GUEST_RACY_H

/*
 * Between the two a thread reads guest memory while the guest writes: what is written meanwhile is
 * read again. ThreadSanitizer does not look.
 */
#if defined(__SANITIZE_THREAD__)
#define RACY_READS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RACY_READS 1
#endif
#endif

#ifdef RACY_READS
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
#define racy_reads_begin() AnnotateIgnoreReadsBegin(__FILE__, __LINE__)
#define racy_reads_end()   AnnotateIgnoreReadsEnd(__FILE__, __LINE__)
#else
#define racy_reads_begin() ((void)0)
#define racy_reads_end()   ((void)0)
#endif

#endif
