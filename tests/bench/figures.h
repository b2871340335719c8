/* SPDX-License-Identifier: MIT */
#ifndef BENCH_FIGURES_H
#define BENCH_FIGURES_H

/* One function per topic; each measures and records its figures. */
void rings_figures(void);
void scale_figures(void);
void memory_figures(void);
void pass_figures(void);
void bitmap_figures(void);
void iterator_figures(void);
void mark_figures(void);
void foreign_figures(void);
void cursor_figures(void);
void take_figures(void);
void share_figures(void);
void slots_figures(void);
void many_slots_figures(void);
void watch_figures(void);

#endif
