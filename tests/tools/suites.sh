# shellcheck shell=bash disable=SC2154 # top and extension are .ci/lib.sh's
# Sourced by run-tests and installcheck: the two runners that come with PostgreSQL, and counting.

passed=0
failed=0

count() {
	passed=$((passed + $1))
	failed=$((failed + $2))
}

# Runs a command, shows and keeps its output, adds what its closing lines say to the counts.
#   run_counted KIND LOG COMMAND…      KIND: cargo or regress
run_counted() {
	local kind=$1 log=$2 status=0 counts
	shift 2
	timeout 1500 "$@" 2>&1 | tee "$log" || status=$?
	counts=$(count_"$kind" "$log")
	# shellcheck disable=SC2086 # two numbers
	set -- $counts
	# A runner that died or never started has no closing line to say so.
	if [ "$status" != 0 ] && [ "$2" = 0 ]; then
		say "FAILED: ended with status $status before it counted a failure"
		set -- "$1" 1
	elif [ "$1" = 0 ] && [ "$2" = 0 ]; then
		say "FAILED: no test was run"
		set -- 0 1
	fi
	count "$1" "$2"
	[ "$2" = 0 ]
}

count_cargo() { awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' "$1"; }

# "All 12 tests passed." or "2 of 12 tests failed.", since PostgreSQL 16 behind a "# ".
count_regress() {
	sed -n 's/^#\{0,1\} *All \([0-9]*\) tests passed.*/\1 0/p; s/^#\{0,1\} *\([0-9]*\) of \([0-9]*\) tests failed.*/\2 \1/p' "$1" |
		awk '/ / { print ($2 == 0 ? $1 : $1 - $2), $2; done = 1 } END { if (!done) print 0, 0 }'
}

# One of PostgreSQL's own runners over a folder of ours: run_suite PG_CONFIG OUTPUT pg_regress|isolation
# It makes a database of its own on the server that PGHOST, PGPORT and PGUSER name.
run_suite() {
	local pg_config=$1 output=$2 suite=$3 folder=$top/tests/$3 runner pattern file tests=()
	runner=$(dirname "$("$pg_config" --pgxs)")/../test
	if [ "$suite" = isolation ]; then
		runner=$runner/isolation/pg_isolation_regress pattern='specs/*.spec'
	else
		runner=$runner/regress/pg_regress pattern='sql/*.sql'
	fi
	if ! [ -x "$runner" ]; then
		say "$suite: skipped, $("$pg_config" --version) comes without $(basename "$runner")"
		return
	fi
	for file in "$folder"/$pattern; do
		[ -e "$file" ] || continue
		file=$(basename "${file%.*}")
		# setup first: the others build on it.
		if [ "$file" = setup ]; then tests=(setup "${tests[@]}"); else tests+=("$file"); fi
	done
	if [ ${#tests[@]} = 0 ]; then
		say "FAILED: there is no test in $folder"
		count 0 1
		return
	fi
	rm -rf "$output"
	mkdir -p "$output"
	# From its folder, because where the expected output is looked up differs between versions.
	run_counted regress "$output/log" env -C "$folder" "$runner" --bindir="$("$pg_config" --bindir)" \
		--inputdir=. --outputdir="$output" --dbname="threadline_$suite" --load-extension="$extension" "${tests[@]}" ||
		show_diffs "$output"
}

show_diffs() {
	local diffs
	for diffs in "$1"/regression.diffs "$1"/output_iso/regression.diffs; do
		if [ -s "$diffs" ]; then cat "$diffs"; fi
	done
}
