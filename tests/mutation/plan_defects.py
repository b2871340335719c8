# SPDX-License-Identifier: MIT
"""Defects of the plan, in the form of defects.py. Most break a rule of tests/convergence."""

RUNS = "convergence/convergence"

PLAN = [
    ("what the caller has not sent is ignored", "planner.c",
     "(double)((pages << cursor->page_shift) + unsent_bytes);",
     "(double)(pages << cursor->page_shift);", RUNS),
    ("the plan does not empty the rings", "planner.c",
     "\tint r = dli_collect_rings(log, false);\n", "\tint r = 0;\n", RUNS),
    ("all vCPUs are limited to the same share", "planner.c",
     "\t\tdouble limit = level > floor ? level : floor;\n",
     "\t\tdouble limit = isfinite(level) ? 0.5 * demand + 0 * floor : level;\n", RUNS),
    ("a debt waits for long until it is asked for again", "plan/bucket.c",
     "bucket->pause_end_ns + REST_NS;", "bucket->pause_end_ns + 20 * REST_NS;", RUNS),
    ("pauses need no running time", "plan/bucket.c",
     "\tif (rule->least_run > 0) {\n\t\tdouble most_ns",
     "\tif (rule->least_run > 1) {\n\t\tdouble most_ns", RUNS),
    ("pauses may be as long as the debt", "plan/bucket.c",
     "\t\tns = (double)rule->longest_pause_ns;\n", "", RUNS),
    ("the wire is known by its slow average only", "plan/law.c",
     "\treturn wire->fast < wire->slow ? wire->fast : wire->slow;", "\treturn wire->slow;",
     "unit/unit-law"),
    ("all of the wire is relied on", "plan/law.c",
     "\tdouble share = SAFE_SHARE - ROUGH_SHARE * wire->roughness;", "\tdouble share = 1;", RUNS),
    ("the device's state is no part of the downtime", "plan/law.c",
     "\tdouble memory = law->goal.downtime - law->goal.fixed,",
     "\tdouble memory = law->goal.downtime,", RUNS),
    ("limits leave all of the wire to new memory", "plan/law.c",
     "\treturn in_time < least ? least :", "\treturn in_time < most ? wire :", RUNS),
    ("limits never begin", "plan/law.c",
     "\t\tlaw->limiting = reason_to_limit(law, look, advice.fits);",
     "\t\t(void)reason_to_limit(law, look, advice.fits);", RUNS),
    ("limits begin without a reason", "plan/law.c",
     "\treturn DL_BOUND_NONE;", "\treturn DL_BOUND_STALL;", RUNS),
    ("the first pass may be the last", "plan/law.c",
     "\tif (!look->first_pass && look->pending", "\tif (look->pending",
     "unit/unit-law"),
    ("every guest that stalls diverges", "plan/law.c",
     " &&\n\t       law->new_rate >= SAFE_SHARE * wire &&\n"
     "\t       law->goal.least_run * look->written >= FLOOR_SHARE * wire;", ";", RUNS),
]
