/* SPDX-License-Identifier: MIT */
#ifndef DLI_ERROR_TEXT_H
#define DLI_ERROR_TEXT_H

enum { ERROR_TEXT_BYTES = 64 };

/*
 * A negative errno value in words. Where the C library has no constant texts, they are written to
 * the buffer, of ERROR_TEXT_BYTES. Never NULL; errno is untouched.
 */
const char *dli_error_text(int error, char *buffer);

#endif
