/* SPDX-License-Identifier: MIT */
#ifndef RACE_SENDERS_H
#define RACE_SENDERS_H

#include "guest_checker.h"

/*
 * One iteration by several senders, each on its own thread. Each run that a sender copies is
 * acknowledged by another one, in halves; the last ones are not acknowledged, so they come back.
 * With lossy, some runs are neither copied nor acknowledged, as if they could not be sent. Returns
 * 0, or -ECANCELED if logging was stopped or is off; any other error ends the program.
 */
int senders_pass(struct checker *checker, bool lossy);

#endif
