# SPDX-License-Identifier: MIT
# gnuplot -c plot.gp TRACES DIRECTORY: TRACES/LOAD.tsv become DIRECTORY/curves.png.
set datafile separator "\t"
set terminal png size 1100,1120 font "sans,10"
set output ARG2 . "/curves.png"
set multiplot layout 4,2
set grid
laws = "none auto-converge aggressive dirty-limit equal-quota plan plan-skip"
colours = "#000000 #0b3c8c #2f7fc1 #c9a227 #8a8a8a #b3131b #e0701b"
width(law) = law[1:4] eq "plan" ? 3 : 1.2
loads = "1 4 8 12"
names = "'2 uniform writers, 6 readers' 'memcpy above the wire' 'wire at 10% for 10 s' '10 sweeps, 1.5 Gbit/s'"
ends = "100 130 80 400"
set xlabel "seconds"
do for [i=1:4] {
  file = ARG1 . "/" . word(loads, i) . ".tsv"
  set xrange [0:int(word(ends, i))]
  set title "load " . word(loads, i) . ": " . word(names, i)
  set ylabel "left to send, s of the wire"
  set yrange [0.1:*]
  set logscale y
  set key outside right top Left reverse samplen 2
  plot for [k=1:7] file using 4:(strcol(1) eq word(laws, k) ? $5 : NaN) with lines \
    linewidth width(word(laws, k)) linecolor rgb word(colours, k) title word(laws, k)
  unset logscale y
  set ylabel "writers run, %"
  set yrange [0:105]
  plot for [k=1:7] file using 4:(strcol(1) eq word(laws, k) ? 100 * $9 : NaN) smooth unique with lines \
    linewidth width(word(laws, k)) linecolor rgb word(colours, k) notitle
}
unset multiplot
