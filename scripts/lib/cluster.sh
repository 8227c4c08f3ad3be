# Three nodes on this machine, for the demo, for scripts/up and for the README's tests.
#
# cluster_plan DIR [BASE]  lays out the nodes' ports and folders (BASE and up, or free ones) and sets CLUSTER_DIR,
#                          CLUSTER_ENDPOINTS, CLUSTER_CLIENT_ADDRESS[1..3], CLUSTER_PEER_ADDRESS[1..3]
# cluster_start N          starts node N; its process id is in CLUSTER_PID[N] and in DIR/nN.pid
# cluster_wait NODES...    until each of them would answer a linearizable read
# cluster_kill N           kill -9, as when its machine loses power
# cluster_surprises [TEXT…] prints what the nodes logged above INFO, and panics, but for lines that hold one of the texts
# cluster_stop             stops those that run, as a supervisor would; returns when they are gone
#
# Sourced after env.sh and say.sh.

CLUSTER_START_WITHIN_S=30
# A node promises to be gone 10 s after SIGTERM.
CLUSTER_STOP_WITHIN_S=15
CLUSTER_PID=()

free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys

# All are held open until the last is found, so that no two are the same.
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

cluster_plan() {
  CLUSTER_DIR=$1
  local base=${2:-} ports node
  if [ -n "$base" ]; then
    ports=("$base" $((base + 1)) $((base + 2)) $((base + 100)) $((base + 101)) $((base + 102)))
  else
    read -r -a ports <<<"$(free_ports 6)"
  fi
  CLUSTER_CLIENT_ADDRESS=('') CLUSTER_PEER_ADDRESS=('') CLUSTER_INITIAL='' CLUSTER_ENDPOINTS=''
  for node in 1 2 3; do
    CLUSTER_CLIENT_ADDRESS[node]=127.0.0.1:${ports[node - 1]}
    CLUSTER_PEER_ADDRESS[node]=127.0.0.1:${ports[node + 2]}
    CLUSTER_INITIAL+=${CLUSTER_INITIAL:+,}n$node=${CLUSTER_PEER_ADDRESS[node]}
    CLUSTER_ENDPOINTS+=${CLUSTER_ENDPOINTS:+,}${CLUSTER_CLIENT_ADDRESS[node]}
  done
  mkdir -p "$CLUSTER_DIR"
}

cluster_start() {
  local node=$1
  # In a group of its own, so that Ctrl-C reaches the script alone, which stops the nodes in order.
  setsid "$ROSTER_BIN" server --name "n$node" --data-dir "$CLUSTER_DIR/n$node" \
    --client-addr "${CLUSTER_CLIENT_ADDRESS[node]}" --peer-addr "${CLUSTER_PEER_ADDRESS[node]}" \
    --initial-cluster "$CLUSTER_INITIAL" >>"$CLUSTER_DIR/n$node.log" 2>&1 </dev/null &
  CLUSTER_PID[node]=$!
  echo $! >"$CLUSTER_DIR/n$node.pid"
}

cluster_wait() {
  local node deadline=$((SECONDS + CLUSTER_START_WITHIN_S))
  for node in "$@"; do
    until "$ROSTER_BIN" health --ready --endpoints "${CLUSTER_CLIENT_ADDRESS[node]}" --timeout 2s >/dev/null 2>&1; do
      if ! kill -0 "${CLUSTER_PID[node]}" 2>/dev/null; then
        complain "node n$node ended; the end of its log:"
        tail -n 5 "$CLUSTER_DIR/n$node.log" >&2
        return 1
      fi
      if [ $SECONDS -ge $deadline ]; then
        complain "node n$node was not ready within $CLUSTER_START_WITHIN_S s; the end of its log:"
        tail -n 5 "$CLUSTER_DIR/n$node.log" >&2
        return 1
      fi
      sleep 0.1
    done
  done
}

cluster_kill() {
  # Reaped out of hearing, so that bash does not report the killing at a place of its own choice.
  {
    kill -9 "${CLUSTER_PID[$1]}"
    wait "${CLUSTER_PID[$1]}" || true
  } 2>/dev/null
  unset "CLUSTER_PID[$1]"
}

cluster_surprises() {
  local expected=() text
  for text; do expected+=(-e "$text"); done
  # Each grep exits with 1 when it finds nothing.
  { grep -E '^[^ ]+ +(WARN|ERROR) |panicked at' "$CLUSTER_DIR"/n*.log || true; } |
    if [ $# -eq 0 ]; then cat; else grep -vF "${expected[@]}" || true; fi
}

cluster_stop() {
  local node pid deadline
  for node in "${!CLUSTER_PID[@]}"; do
    kill -TERM "${CLUSTER_PID[node]}" 2>/dev/null || true
  done
  deadline=$((SECONDS + CLUSTER_STOP_WITHIN_S))
  for node in "${!CLUSTER_PID[@]}"; do
    pid=${CLUSTER_PID[node]}
    while kill -0 "$pid" 2>/dev/null; do
      if [ $SECONDS -ge $deadline ]; then
        complain "node n$node did not stop within $CLUSTER_STOP_WITHIN_S s of SIGTERM: killed"
        kill -9 "$pid" 2>/dev/null || true
        break
      fi
      sleep 0.05
    done
    wait "$pid" 2>/dev/null || true
  done
  CLUSTER_PID=()
}

# The leader's node name, as the cluster says it; nothing while there is none.
cluster_leader() {
  "$ROSTER_BIN" cluster status -o json --endpoints "$CLUSTER_ENDPOINTS" 2>/dev/null | python3 "$ROSTER_ROOT/scripts/lib/leader.py"
}
