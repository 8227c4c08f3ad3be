# How scripts speak: what they do, how long it takes, what it showed.

# Colours only for a person's terminal.
if [ -t 1 ]; then
  SAY_BOLD=$'\e[1m' SAY_DIM=$'\e[2m' SAY_RED=$'\e[31m' SAY_END=$'\e[0m'
else
  SAY_BOLD='' SAY_DIM='' SAY_RED='' SAY_END=''
fi

# A sign of life for steps that print nothing for minutes.
SAY_STILL_AT_IT_EVERY_S=60

say() { printf '%s\n' "$*"; }
say_note() { printf '%s%s%s\n' "$SAY_DIM" "$*" "$SAY_END"; }
complain() { printf '%s%s%s\n' "$SAY_RED" "$*" "$SAY_END" >&2; }
die() {
  complain "$*"
  exit 1
}

# A stage that cannot run on this machine exits with this, having said why.
STAGE_SKIPPED=77

# span SECONDS: "2 min 5 s"
span() {
  if [ "$1" -ge 60 ]; then
    printf '%d min %d s' $(($1 / 60)) $(($1 % 60))
  else
    printf '%d s' "$1"
  fi
}

# stage NAME EXPECTED COMMAND...: runs one stage, says how long it should take and how long it took. Returns what the
# command returns.
stage() {
  local name=$1 expected=$2 began=$SECONDS watcher result=0
  shift 2
  printf '\n%s==> %s%s (expected: %s)\n' "$SAY_BOLD" "$name" "$SAY_END" "$expected"
  (
    # The sleep must not outlive this watcher, nor hold the output open for whoever reads it through a pipe.
    trap 'kill "$sleeper" 2>/dev/null; exit 0' TERM
    while :; do
      sleep "$SAY_STILL_AT_IT_EVERY_S" >/dev/null 2>&1 &
      sleeper=$!
      wait "$sleeper"
      # Ctrl-C does not reach a background process: it looks for itself whether its script has gone.
      kill -0 $$ 2>/dev/null || exit 0
      say_note "... $name: $(span $((SECONDS - began))) so far (expected: $expected)"
    done
  ) 2>/dev/null &
  watcher=$!
  "$@" || result=$?
  kill "$watcher" 2>/dev/null || true
  wait "$watcher" 2>/dev/null || true
  if [ "$result" -eq 0 ]; then
    printf '%s<== %s: done in %s%s\n' "$SAY_BOLD" "$name" "$(span $((SECONDS - began)))" "$SAY_END"
  elif [ "$result" -eq "$STAGE_SKIPPED" ]; then
    complain "<== $name: SKIPPED"
  else
    complain "<== $name: FAILED (exit code $result) after $(span $((SECONDS - began)))"
  fi
  return "$result"
}
