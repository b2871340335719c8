/* SPDX-License-Identifier: MIT */
#ifndef RACE_SENDERS_H
#define RACE_SENDERS_H

#include "guest_checker.h"

/*
 * One iteration by several senders, each on its own thread. What one has copied another acknowledges,
 * in halves; what is copied last nobody does, so it comes back. lossy: some runs are neither copied nor
 * acknowledged, as if they could not be sent. 0, or -ECANCELED: it was stopped, or logging is off.
 * Anything else that the library says ends the program.
 */
int senders_pass(struct checker *checker, bool lossy);

#endif
