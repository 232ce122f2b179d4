-- Functions of the shared library (src/symbols.rs).

CREATE FUNCTION threadline.capture_row() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'capture_row';
CREATE FUNCTION threadline.capture_truncate() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'capture_truncate';
COMMENT ON FUNCTION threadline.capture_row() IS 'Trigger: records a changed row. Made by audit_enable(); refuses tables without a capture policy.';
COMMENT ON FUNCTION threadline.capture_truncate() IS 'Trigger: records the rows that TRUNCATE removes, or blocks it. Made by audit_enable().';

CREATE FUNCTION threadline.audit_enable(
    target regclass,
    exclude name[] DEFAULT NULL,
    mask text[] DEFAULT NULL,
    mask_placeholder text DEFAULT NULL,
    key_columns name[] DEFAULT NULL,
    baseline boolean DEFAULT true,
    options jsonb DEFAULT NULL
) RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'audit_enable';
COMMENT ON FUNCTION threadline.audit_enable(regclass, name[], text[], text, name[], boolean, jsonb) IS
'Puts a table under capture, or changes how it is captured; calling it again is harmless. NULL keeps what is set, ''{}'' clears it. The caller must own the table.
exclude: columns left out of every image. mask: columns replaced by mask_placeholder (default [REDACTED]), NULLs too; or paths into columns of type json and jsonb and arrays of them, column and keys separated by dots (meta.card.number; a key that is empty or holds a dot or a quote stands in double quotes, doubled inside: ARRAY[''meta."a.b".c'']; case counts). What a path leads to, JSON null too, is the placeholder in every image; a step into an array is one into each of its elements; where a path leads nowhere nothing is masked or added. A typed answer shows the placeholder inside the document. A json value that jsonb cannot hold, and a column that is no document any more, are masked as a whole. A path into a column that is masked or excluded anyway is kept and changes nothing. key_columns: a unique NOT NULL key for a table without a primary key; an index that is its REPLICA IDENTITY is taken without being named. baseline: also records the rows that exist now as op snapshot, holding off writers of the table (SHARE ROW EXCLUSIVE) while it scans. options: {"key": "full_row", "image": "full"|"delta", "skip_noop": bool, "truncate": "capture"|"mark"|"block", "truncate_cap": rows, "on_error": "fail"|"warn", "fires": "origin"|"always"}. With image delta an update stores the columns that changed, and the whole row about every sixteenth time: less log, and slower reading; a change that capture does not see then falsifies what is read of the row until its next whole image. TRUNCATE is recorded row by row up to truncate_cap rows (100000 unless set); with more, or with "mark", as one change for the whole table, whose rows are then known from their last changes; TRUNCATE of single partitions always row by row.
key full_row: where there is no key the recorded row is one, as a digest: table_pk is {"full_row": "<40 hexadecimal digits>"}, the same for identical rows, which are counted and share a history; masked and excluded columns are no part of it, and documents are with what is masked inside them masked. Not with key_columns or image delta. A key that the table has or gets comes first, at the next audit_enable. When columns are added, dropped, retyped or redacted otherwise, rows recorded before and after cannot be matched: a gap (shape_changed) from the first change in the new shape until the next audit_enable, which takes a new baseline.
on_error warn: a change that cannot be recorded (a value without JSON form, a key that is NULL or gone, a log that is missing, locked or full) goes through with a WARNING, and leaves a gap of reason warn_on_error in audit_gaps with SQLSTATE, message and number of changes: answers are incomplete until audit_enable takes a new baseline. It costs a subtransaction for each row and one, with an xid of its own, for each batch of up to 64 rows written. Cancellations, timeouts of statements, deadlocks, serialization failures and lack of memory still fail the write, and so does whatever a table with on_error fail has in the same transaction. Not with image delta. fires always: sessions of the replica role, logical replication''s apply among them, are recorded too.
A partitioned table covers its partitions, present and future. Rows that come or go with ATTACH, DETACH or DROP of a partition are recorded, up to truncate_cap, where audit_enable_schema(future => true) is on, and a gap elsewhere; TRUNCATE of a single partition made or attached since is recorded from the next audit_maintain() or audit_enable() on, and a gap before. Errors: 42809 not an ordinary table, 42501 not the owner, 42703 unknown column, 22023 contradictory or unknown option or malformed path, 42804 a path into a column that holds no JSON, 42P16 no key.';

CREATE FUNCTION threadline.audit_disable(target regclass) RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'audit_disable';
COMMENT ON FUNCTION threadline.audit_disable(regclass) IS
'Stops capture of a table and keeps its history; the time until it is enabled again is a gap (audit_gaps). The caller must own the table. Errors: 42501 not the owner, 55000 not under capture.';

CREATE FUNCTION threadline.enable_schema_checked(schema_name name, future boolean, except_tables name[]) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'enable_schema_checked';
COMMENT ON FUNCTION threadline.enable_schema_checked(name, boolean, name[]) IS 'Internal: what audit_enable_schema does with the extension owner''s rights, once it is sure that the caller owns the schema.';

CREATE FUNCTION threadline.library_version() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'library_version';
COMMENT ON FUNCTION threadline.library_version() IS 'The version of the shared library that this session runs; that of the SQL objects is in pg_extension.';

CREATE FUNCTION threadline.take_baseline(p_table_id integer, target regclass) RETURNS bigint
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'take_baseline';
COMMENT ON FUNCTION threadline.take_baseline(integer, regclass) IS 'Internal: records every row of a table as op snapshot; returns how many. The caller holds SHARE ROW EXCLUSIVE on the table.';

CREATE FUNCTION threadline.record_shape(target regclass) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'record_shape';
COMMENT ON FUNCTION threadline.record_shape(regclass) IS 'Internal: records the shape that a captured table has now if it is a new one, as its next change would.';

CREATE FUNCTION threadline.record_partition(root regclass, leaf regclass, arrives boolean) RETURNS bigint
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'record_partition';
COMMENT ON FUNCTION threadline.record_partition(regclass, regclass, boolean) IS 'Internal: records every row of a table that is or was a partition of a captured one as inserted there, or deleted; returns how many, or NULL, and records none, when they are more than truncate_cap. The caller holds off writers.';

CREATE FUNCTION threadline.holds_older_rows(p_table_id integer, leaf oid, trigger_id oid, attached_by integer) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'holds_older_rows';
COMMENT ON FUNCTION threadline.holds_older_rows(integer, oid, oid, integer) IS 'Internal: whether a partition that nobody noted yet holds a row of a committed transaction, or one that the caller''s wrote before its command attached_by. NULL when the partition was noted meanwhile.';

CREATE FUNCTION threadline.is_own_xid(id xid) RETURNS boolean
    LANGUAGE c STRICT STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'is_own_xid';
COMMENT ON FUNCTION threadline.is_own_xid(xid) IS 'Internal: whether the current transaction, or a savepoint of it, has this xid.';

CREATE FUNCTION threadline.invalidate_relation(target regclass) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'invalidate_relation';
COMMENT ON FUNCTION threadline.invalidate_relation(regclass) IS 'Internal: makes every session read the capture policy of a table and its partitions anew.';

CREATE FUNCTION threadline.current_audit_transaction_id() RETURNS uuid
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_audit_transaction_id';
COMMENT ON FUNCTION threadline.current_audit_transaction_id() IS
'The id that the current transaction has, or will have once it changes something, in audit_transactions. The same until the transaction ends.';

CREATE FUNCTION threadline.note_action(action_id uuid) RETURNS void
    LANGUAGE c PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'note_action';
COMMENT ON FUNCTION threadline.note_action(uuid) IS 'Internal: the current transaction gets a row in audit_transactions even if it changes nothing, with this action.';

CREATE FUNCTION threadline.origin() RETURNS bigint
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'origin';
COMMENT ON FUNCTION threadline.origin() IS 'The system identifier of this cluster, as pg_control_system() shows it.';

CREATE FUNCTION threadline.next_xid() RETURNS xid8
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'next_xid';
COMMENT ON FUNCTION threadline.next_xid() IS 'Internal: the xid that the next writing transaction will get. A snapshot''s xmax says less: xids above it may be in flight.';

CREATE FUNCTION threadline.oldest_other_writer() RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'oldest_other_writer';
COMMENT ON FUNCTION threadline.oldest_other_writer() IS 'Internal: when the oldest transaction now writing in this database, the caller''s own excepted, started; NULL when there is none. Prepared transactions are not among them.';

CREATE FUNCTION threadline.pending_changes() RETURNS SETOF threadline.change_log
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'pending_changes';
COMMENT ON FUNCTION threadline.pending_changes() IS 'Internal: changes of the current transaction that still wait in the session''s buffer.';

CREATE FUNCTION threadline.pending_transaction() RETURNS SETOF threadline.transaction_log
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'pending_transaction';
COMMENT ON FUNCTION threadline.pending_transaction() IS 'Internal: the current transaction''s row, once it has recorded something; commit_no and committed_at are NULL.';

CREATE FUNCTION threadline.key_lookup(target regclass, given text, OUT table_id integer, OUT row_key bigint, OUT key text)
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'key_lookup';
COMMENT ON FUNCTION threadline.key_lookup(regclass, text) IS 'Internal: a row key as typed (the key column''s value, or a JSON object naming every key column) in the form the log stores. Errors: 42704 the table has never been under capture, 22023 wrong key columns.';

CREATE FUNCTION threadline.table_lookup(target regclass) RETURNS integer
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'table_lookup';
COMMENT ON FUNCTION threadline.table_lookup(regclass) IS 'Internal: the captured table that a relation is, or is a partition of. Error 42704: it has never been under capture.';

CREATE FUNCTION threadline.has_marks(target regclass) RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'has_marks';
COMMENT ON FUNCTION threadline.has_marks(regclass) IS 'Internal: false where it is certain that no TRUNCATE of the table is recorded as one change.';

CREATE FUNCTION threadline.horizon_at_once(at timestamptz) RETURNS bigint
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'horizon_at_once';
COMMENT ON FUNCTION threadline.horizon_at_once(timestamptz) IS 'Internal: the greatest commit_no among the 256 transactions that were stamped last before a time or at it, 0 when there is none.';

CREATE FUNCTION threadline.has_witness(at timestamptz) RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'has_witness';
COMMENT ON FUNCTION threadline.has_witness(timestamptz) IS 'Internal: whether a transaction of this cluster that started after a time, among the first that were stamped after it, has an xid that precedes every one in flight: see settled().';

CREATE FUNCTION threadline.gapless_at_once(target regclass, since timestamptz, until timestamptz) RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'gapless_at_once';
COMMENT ON FUNCTION threadline.gapless_at_once(regclass, timestamptz, timestamptz) IS 'Internal: true where nothing of a table''s record can be missing in (since, until], by a look that costs little; where it is false, readable_gap tells.';

CREATE FUNCTION threadline.latest_op_at_once(target regclass, row_key bigint, key text) RETURNS smallint
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'latest_op_at_once';
COMMENT ON FUNCTION threadline.latest_op_at_once(regclass, bigint, text) IS 'Internal: the op of what latest_change() finds of a key among all that the caller sees, by a look that costs little; NULL where there is none, or more than that look has to be asked.';

CREATE FUNCTION threadline.object_keys(object jsonb) RETURNS text[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'object_keys';
COMMENT ON FUNCTION threadline.object_keys(jsonb) IS 'Internal: the names at the top of a JSON object, sorted bytewise; NULL when there are none.';

CREATE TYPE threadline.row_known_at_once AS (
    known boolean,
    key   text,
    image jsonb
);

CREATE FUNCTION threadline.typed_row_at_once(row_type anyelement, given text, at timestamptz) RETURNS threadline.row_known_at_once
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'typed_row_at_once';
COMMENT ON FUNCTION threadline.typed_row_at_once(anyelement, text, timestamptz) IS 'Internal: a row as of a time where nothing unusual is in the way: known, with the key as the log has it, and the image, NULL when there was no row; it reads as the table''s type of now as it stands. NULL where typed_row_state() has more to ask.';

CREATE FUNCTION threadline.digest_row_key(digest text) RETURNS bigint
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'digest_row_key';
COMMENT ON FUNCTION threadline.digest_row_key(text) IS 'Internal: the number under which the log''s index has the digest of a row of a table without a key.';

CREATE FUNCTION threadline.present_shape(target regclass) RETURNS jsonb
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'present_shape';
COMMENT ON FUNCTION threadline.present_shape(regclass) IS 'Internal: the columns of a captured table as table_version would record them now. Error 42704: it has never been under capture.';

CREATE FUNCTION threadline.row_image(r anyelement) RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'row_image';
COMMENT ON FUNCTION threadline.row_image(anyelement) IS 'A row of a captured table as capture would store it now, excluded and masked columns included: SELECT threadline.row_image(t) FROM orders t.';

CREATE FUNCTION threadline.row_exact(r anyelement) RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'row_exact';
COMMENT ON FUNCTION threadline.row_exact(anyelement) IS 'Internal: what capture would store beside row_image(row): {"column": text} of the values that their JSON form does not give back, NULL when there are none.';

CREATE FUNCTION threadline.as_of_support(internal) RETURNS internal
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'as_of_support';
COMMENT ON FUNCTION threadline.as_of_support(internal) IS 'Internal: support function of audit_as_of(row_type, at) and audit_as_seen_by. Tells the planner how many rows to expect; loading the library, it also lets a query for certain keys read only those rows'' changes.';

CREATE FUNCTION threadline.type_definitions(target regtype) RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'type_definitions';
COMMENT ON FUNCTION threadline.type_definitions(regtype) IS 'Internal: the labels and attributes that the texts of a type''s values depend on, as table_version.types has them; NULL when there are none.';

CREATE FUNCTION threadline.respelling(target regtype, definitions jsonb, later_definitions jsonb) RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'respelling';
COMMENT ON FUNCTION threadline.respelling(regtype, jsonb, jsonb) IS 'Internal: what respell() has to do to texts of a type that were written under other definitions; NULL when nothing. later_definitions: an array of what was recorded after them.';

CREATE FUNCTION threadline.respell(value text, recipe text) RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'respell';
COMMENT ON FUNCTION threadline.respell(text, text) IS 'Internal: a value''s text as its type spells it now, by what respelling() said.';

CREATE FUNCTION threadline.in_transaction_block() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'in_transaction_block';
COMMENT ON FUNCTION threadline.in_transaction_block() IS 'Internal: whether the transaction goes on after the statement that the client sent.';

CREATE FUNCTION threadline.forget_plans() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'forget_plans';
COMMENT ON FUNCTION threadline.forget_plans() IS 'Internal: makes every cached plan of the session look its names up anew, and again should this be rolled back.';

CREATE FUNCTION threadline.drop_together(dependent regclass, owner regclass) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'drop_together';
COMMENT ON FUNCTION threadline.drop_together(regclass, regclass) IS 'Internal: the first goes when the second is dropped. Both are temporary, of this session, and the caller''s own; 42501 otherwise.';

CREATE FUNCTION threadline.view_is_volatile(target regclass) RETURNS boolean
    LANGUAGE c STRICT STABLE AS 'MODULE_PATHNAME', 'view_is_volatile';
COMMENT ON FUNCTION threadline.view_is_volatile(regclass) IS 'Internal: whether the query of a view calls a VOLATILE function; NULL for what is no view.';

CREATE FUNCTION threadline.row_key(r anyelement, OUT row_key bigint, OUT key text)
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'row_key';
COMMENT ON FUNCTION threadline.row_key(anyelement) IS 'The key of a row of a captured table as the log stores it, and the number its index is ordered by.';
