# Downtime, as the README and docs/explanation/benchmarks.md show it; the figures and the commands that print them are on
# that page. `make pictures` draws it with gnuplot.
set terminal svg size 860,300 font "Helvetica,14" background "white"
set style fill solid 0.9 border -1
set style data histogram
set boxwidth 0.8
set yrange [0:*]
set ytics nomirror
set xtics nomirror scale 0
set border 3
set grid ytics lc rgb "#cfd8dc" lt 1
set multiplot

# A move to Kubernetes, as a client sees it, in seconds.
$published << END
"FastFreeze" 31.3
"freeze" 1.4
END
set size 0.35,1
set origin 0,0
set title "Downtime: redis to Kubernetes, in seconds"
set xrange [-0.6:1.6]
set yrange [0:36]
unset key
plot $published using 0:2:($0 == 0 ? 0xb0bec5 : 0x1976d2) with boxes lc rgb variable, \
     "" using 0:2:2 with labels offset 0,0.8, \
     "" using 0:(0):xtic(1) with points pt -1

# The same service in the same containers and the same run, in milliseconds.
$run << END
"1 process" 105 133
"16 processes" 136 190
"128 MiB" 236 364
"512 MiB" 656 880
END
set size 0.65,1
set origin 0.35,0
set title "Downtime: the same service in the same run, in milliseconds"
set key top left reverse Left samplen 1.5
set style histogram clustered gap 1
set xrange [-0.6:3.6]
set yrange [0:1000]
plot $run using 2:xtic(1) title "plain CRIU, as root" lc rgb "#b0bec5", "" using 3 title "freeze, without privileges" lc rgb "#1976d2", \
     "" using ($0 - 0.17):2:2 with labels offset 0,0.7 notitle, "" using ($0 + 0.17):3:3 with labels offset 0,0.7 notitle
unset multiplot
