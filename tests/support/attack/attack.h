/* What the parts of the attack program share. Facts of the host come from facts.h, which the test
 * writes before it compiles. */
#ifndef ATTACK_H
#define ATTACK_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
#include "facts.h"

/* One attempt: returns 1 when it succeeded; tells how in `detail`. */
struct attempt {
	const char *name;
	int (*run)(void);
};

extern char detail[400];
extern const struct attempt doors[], holes[], reaches[], bombs[];

/* Both write `detail` and return what the attempt returns. */
int failed(const char *format, ...);
int succeeded(const char *format, ...);
/* By the result of a system call: anything but -1 is a success. */
int by_result(long result);
/* The same, but errors that come after the check of permission are a success too. */
int by_permission(long result);
/* Whether the file holds `token`; up to 1 MiB is read. */
int holds(int directory, const char *path, const char *token);
/* Try to open each of a list that ends with NULL; a success if one opens and is not covered by the
 * null device. */
int any_opens(const char *const *paths, int flags);

#endif
