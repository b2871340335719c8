/* SPDX-License-Identifier: MIT */
#ifndef VMM_MISUSES_H
#define VMM_MISUSES_H

/* Every scene under every mistake that it must notice, and under none. */

#include "kinds.h"
#include "rows.h"

static const struct {
	uint32_t misuse;
	const char *name;
} misuses[] = {
	{ MISUSE_FORGET_CLEAR, "without dl_slot_clear()" },
	{ MISUSE_READ_FIRST, "contents read before dl_slot_clear()" },
	{ MISUSE_DROP_WORDS, "words dropped" },
	{ MISUSE_KEEP_WORDS, "words not given back" },
	{ MISUSE_LAST_TAKE, "one take too few" },
	{ MISUSE_NO_LAST_TAKE, "no last take" },
	{ MISUSE_FORGET_ALIAS, "alias not wanted" },
	{ MISUSE_NO_FAN_OUT, "no fan-out" },
	{ MISUSE_NO_MARK, "device without marks" },
	{ MISUSE_SHADOW_FIRST, "display copies before it syncs" },
	{ MISUSE_SKIP_NEW_PAGES, "new pages not sent" },
	{ MISUSE_UNCOUNTED, "meter without words" },
};

/* True if a new slot can be clean while vCPUs run: the kernel does not set all of its bits. */
static inline bool is_clean_at_once(const struct vmm_config *config)
{
	return config->mode == DL_MODE_RING || config->model.has == WITHOUT_INIT;
}

/* True if a scene in a VM of this kind does what the mistake is about. */
static inline bool can_misuse(const struct scene *scene, const struct vmm_config *config,
			      uint32_t misuse)
{
	switch (misuse) {
	case MISUSE_FORGET_CLEAR:
	case MISUSE_READ_FIRST:
		return config->mode == DL_MODE_BITMAP && config->no_clear;
	case MISUSE_FORGET_ALIAS:
	case MISUSE_NO_FAN_OUT:
		return config->shared;
	case MISUSE_UNCOUNTED:
		return !config->give_marks && is_clean_at_once(config);
	case MISUSE_DROP_WORDS:
	case MISUSE_KEEP_WORDS:
		return scene->changes_paused || is_clean_at_once(config);
	}
	return true;
}

/* One thread makes all steps, so that a mistake shows in each run. */
static inline void add_misuses(const struct scene *scene, const struct kind *kind,
			       const struct hv_backend *backend, void (*before)(const struct row *))
{
	struct vmm_config config = kind->config;
	char name[100];

	config.backend = backend;
	row_add(scene, &config, kind->name)->before = before;
	for (size_t i = 0; i < sizeof(misuses) / sizeof(misuses[0]); i++) {
		config.misuse = misuses[i].misuse;
		if (!(scene->breaks_under & config.misuse) ||
		    !can_misuse(scene, &config, config.misuse))
			continue;
		snprintf(name, sizeof(name), "%s; %s", kind->name, misuses[i].name);
		row_add(scene, &config, name)->before = before;
	}
}

#endif
