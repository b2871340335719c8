/* SPDX-License-Identifier: MIT */
#ifndef KVM_ALIAS_H
#define KVM_ALIAS_H

#include "rig.h"

/* Moves a slot's memory to a file and maps that once more; the test unmaps the second mapping. */
uint8_t *alias_new(const struct rig_slot *slot);

#endif
