# SPDX-License-Identifier: MIT
# gnuplot -c plot.gp DIRECTORY: model.tsv and kvm.tsv there become model.svg and kvm.svg.
directory = ARG1
set datafile separator "\t"
set datafile missing NaN
set grid
set logscale x 2
set key outside right top title "harvest interval" left Left reverse samplen 2
intervals = "reap 1 3 10 30 100 300"
colours = "#000000 #0b3c8c #2f7fc1 #58b7a4 #c9a227 #e0701b #b3131b"
name(i) = i eq "reap" ? "reaper" : i . " ms"
width(i) = i eq "reap" ? 4 : 1.5

# Rows of one crowd without PML and of one interval. Values below the lowest line are drawn on it.
row(c, i) = strcol(1) eq c && $2 == 0 && strcol(4) eq i
shown(value, lowest) = value < lowest ? lowest : value

set terminal svg size 1100,760 background "white" font "sans,12"
set output directory . "/model.svg"
set multiplot layout 2,2
set xlabel "ring entries"
set xrange [200:80000]
set xtics ("256" 256, "1024" 1024, "4096" 4096, "16384" 16384, "65536" 65536)
set logscale y
do for [c in "64x100k 64x500k"] {
  pages = c eq "64x100k" ? "100,000" : "500,000"
  set title "64 vCPUs, " . pages . " pages/s each"
  set ylabel "vCPU time lost, %"
  set yrange [0.0008:100]
  plot for [k=1:7] directory . "/model.tsv" \
    using 3:(row(c, word(intervals, k)) ? shown(100 * $6, 0.001) : NaN) \
    with linespoints linewidth width(word(intervals, k)) pointsize 0.5 \
    linecolor rgb word(colours, k) title name(word(intervals, k))
  set ylabel "full exits a second, of all vCPUs"
  set yrange [0.8:100000]
  plot for [k=1:7] directory . "/model.tsv" \
    using 3:(row(c, word(intervals, k)) ? shown($5, 1) : NaN) \
    with linespoints linewidth width(word(intervals, k)) pointsize 0.5 \
    linecolor rgb word(colours, k) title name(word(intervals, k))
}
unset multiplot

set terminal svg size 800,420 background "white" font "sans,12"
set output directory . "/kvm.svg"
set title "One vCPU that writes 512 pages again and again, real /dev/kvm"
set key outside right top title "ring entries" left Left reverse
set xlabel "harvest interval, ms"
set ylabel "stores a second, % of those without logging"
set logscale x 10
set xrange [0.8:400]
set xtics ("1" 1, "3" 3, "10" 10, "30" 30, "100" 100, "300" 300)
set yrange [0.01:200]
rings = "256 1024 4096 16384"
timed(r) = strcol(1) eq "user" && $2 == 1 && $4 == r && strcol(5) ne "reap"
plot for [k=1:4] directory . "/kvm.tsv" \
  using (timed(int(word(rings, k))) ? $5 * (1 + 0.04 * (k - 2)) : NaN):(100 * $6):(100 * $7):(100 * $8) \
  with yerrorlines pointsize 0.5 linewidth 1.5 \
  linecolor rgb word(colours, k * 2 - 1) title word(rings, k)
