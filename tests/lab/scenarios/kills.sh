# pcpus: 2
# limit: 5400
# full: yes
# zipapp: yes
# part: recording
# The recorder, or xentrace, or both, killed fifty times at moments from a fixed seed.
KILLS=50
guest a pv

# 1 to 4 s, from the last digits of a product.
seed=17
moment() { seed=$((seed * 1103 % 10007)); usleep $((1000000 + seed * 300)); }

for number in $(seq 1 $KILLS); do
    begin "kill$number"
    moment
    case $((number % 3)) in
    0) kill -KILL "$(recorder)" ;;
    1) kill -KILL "$(pidof xentrace)" ;;
    2) kill -KILL "$(recorder)" "$(pidof xentrace)" ;;
    esac
    wait $recording
    sleep 1
    known left "$number" "$(pidof xentrace | wc -w)"
    keep "kill$number"
    rm -rf "/tmp/kill$number.xtrace"
done
record last -d 1
keep last
known notes_after "$(ls /run/xtrace | grep -v "^lock$" | tr "\n" " ")"
left_on end
