-- What people may read. The views named readable_* are internal: the read functions run with the caller's
-- rights and see the log only through them, so that nobody reads more through a function than by a query.

-- Row types of the read functions, so that columns are documented once.
CREATE TYPE threadline.audit_change_row AS (
    id             bigint,
    transaction_id uuid,
    table_schema   text,
    table_name     text,
    table_pk       jsonb,
    old_pk         jsonb,
    op             text,
    changed_fields text[],
    changed_from   jsonb,
    data_after     jsonb,
    captured_at    timestamptz,
    statement_no   integer,
    schema_version integer
);
COMMENT ON TYPE threadline.audit_change_row IS 'One recorded change of one row.';
COMMENT ON COLUMN threadline.audit_change_row.id IS 'Orders the changes of a row across transactions; inside one transaction (statement_no, id) does.';
COMMENT ON COLUMN threadline.audit_change_row.table_name IS 'The table''s name now; the last known one if it was dropped. A partition''s change carries the partitioned table''s name.';
COMMENT ON COLUMN threadline.audit_change_row.table_pk IS 'Key of the row after the change, as text values: {"id":"123"}; {"full_row":"<digest>"}, the same for identical rows, in a table without a key. NULL for a truncate that stands for every row of the table.';
COMMENT ON COLUMN threadline.audit_change_row.old_pk IS 'Key before an update that changed it, else NULL.';
COMMENT ON COLUMN threadline.audit_change_row.op IS 'insert, update, delete, truncate, or snapshot (the row as it was when a baseline was taken).';
COMMENT ON COLUMN threadline.audit_change_row.changed_fields IS 'Updates: names of the changed columns, sorted; NULL when nothing changed, and for every other op.';
COMMENT ON COLUMN threadline.audit_change_row.changed_from IS 'Updates: old values of the changed columns. Deletes and truncates: the whole old row; NULL for a truncate that stands for every row of the table.';
COMMENT ON COLUMN threadline.audit_change_row.data_after IS 'The whole row after the change; NULL for deletes and truncates.';
COMMENT ON COLUMN threadline.audit_change_row.captured_at IS 'Wall clock when the change was recorded.';
COMMENT ON COLUMN threadline.audit_change_row.statement_no IS 'Command number inside the transaction.';
COMMENT ON COLUMN threadline.audit_change_row.schema_version IS 'The table''s shape at the time: see audit_schema_versions.';

CREATE TYPE threadline.audit_transaction_row AS (
    id                uuid,
    commit_no         bigint,
    xid               xid8,
    started_at        timestamptz,
    occurred_at       timestamptz,
    committed_at      timestamptz,
    actor_ref         jsonb,
    action_id         uuid,
    correlation_id    text,
    request_id        text,
    job_id            text,
    source            text,
    context           jsonb,
    session_user_name text,
    current_user_name text,
    application_name  text,
    client_addr       inet,
    backend_pid       integer,
    snapshot          pg_snapshot,
    change_count      bigint,
    statements        jsonb,
    origin            bigint
);
COMMENT ON TYPE threadline.audit_transaction_row IS 'One transaction that changed a captured table or recorded an action.';
COMMENT ON COLUMN threadline.audit_transaction_row.commit_no IS 'Commit order. NULL until the transaction commits.';
COMMENT ON COLUMN threadline.audit_transaction_row.occurred_at IS 'Time of the first recorded change.';
COMMENT ON COLUMN threadline.audit_transaction_row.committed_at IS 'Stamped when the transaction commits; what "as of" goes by. NULL until then.';
COMMENT ON COLUMN threadline.audit_transaction_row.actor_ref IS 'Who the application says it acted for; session_user_name is who the server knows it was.';
COMMENT ON COLUMN threadline.audit_transaction_row.action_id IS 'The last action recorded in the transaction.';
COMMENT ON COLUMN threadline.audit_transaction_row.context IS 'What the setting threadline.context says. Under from_comment the columns that a statement''s sqlcommenter comment filled, the settings being empty: correlation_id (the trace id of traceparent), source (application).';
COMMENT ON COLUMN threadline.audit_transaction_row.statements IS 'What made the changes, statements that are alike in one entry: see audit_statements(). NULL when every statement was a plain INSERT, UPDATE, DELETE or TRUNCATE of the client''s, as its changes'' op says.';
COMMENT ON COLUMN threadline.audit_transaction_row.origin IS 'System identifier of the cluster that ran it. Compare xid and snapshot only within one origin.';

CREATE FUNCTION threadline.op_name(op smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (ARRAY['truncate', 'delete', 'moved', 'snapshot', 'insert', 'update', 'update'])[op_name.op + 1];

CREATE FUNCTION threadline.composite_key_object(key_columns name[], key text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.jsonb_object(
    composite_key_object.key_columns::text[],
    ARRAY(SELECT e.value
          FROM pg_catalog.jsonb_array_elements_text(composite_key_object.key::jsonb) WITH ORDINALITY AS e (value, n)
          ORDER BY e.n));

-- The planner inlines this one, so that the usual single-column key costs no function call.
CREATE FUNCTION threadline.key_object(key_columns name[], key text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN key_object.key IS NULL THEN NULL
    WHEN pg_catalog.cardinality(key_object.key_columns) = 1
        THEN pg_catalog.jsonb_build_object(key_object.key_columns[1], key_object.key)
    WHEN pg_catalog.cardinality(key_object.key_columns) = 0
        THEN pg_catalog.jsonb_build_object('full_row', key_object.key)
    ELSE threadline.composite_key_object(key_object.key_columns, key_object.key)
END;

-- A dump spells a dropped table's relation as a bare number, which may be some other table's where it is
-- restored: a row written elsewhere counts as this cluster's only while its recorded name agrees.
CREATE VIEW threadline.readable_table WITH (security_barrier) AS
SELECT t.table_id,
       live.oid::regclass AS relation,
       live.relkind,
       coalesce(live.nspname, t.schema_name)::text AS table_schema,
       coalesce(live.relname, t.table_name)::text AS table_name,
       t.key_columns,
       t.exclude,
       t.mask::text[] || t.mask_paths AS mask,
       t.placeholder,
       t.options,
       t.enabled,
       t.enabled_at,
       t.disabled_at,
       t.rekeyed
FROM threadline.captured_table t
LEFT JOIN LATERAL (
    SELECT c.oid, c.relkind, c.relname, n.nspname
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = t.relation
      AND (t.origin = threadline.origin() OR (n.nspname = t.schema_name AND c.relname = t.table_name))
) live ON true
WHERE pg_catalog.has_table_privilege('threadline.change_log'::regclass, 'SELECT')
   OR (live.oid IS NOT NULL
       AND pg_catalog.has_table_privilege(live.oid, 'SELECT')
       AND NOT pg_catalog.row_security_active(live.oid));

-- The exact texts of an image after columns of it were replaced: those of the columns given (the keys of an image) are the given ones.
CREATE FUNCTION threadline.replace_exact(exact jsonb, image jsonb, replacing jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN replace_exact.exact IS NULL THEN replace_exact.replacing
            ELSE nullif((replace_exact.exact OPERATOR(pg_catalog.-) ARRAY(SELECT pg_catalog.jsonb_object_keys(replace_exact.image)))
                        OPERATOR(pg_catalog.||) coalesce(replace_exact.replacing, '{}'), '{}') END;

-- What a row is after one more change, image and exact texts: a whole image replaces what was there, a delta adds to it.
CREATE FUNCTION threadline.apply_image(state jsonb[], is_whole boolean, image jsonb, exact jsonb) RETURNS jsonb[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN apply_image.is_whole THEN ARRAY[apply_image.image, apply_image.exact]
            WHEN apply_image.image IS NULL THEN apply_image.state
            ELSE ARRAY[apply_image.state[1] OPERATOR(pg_catalog.||) apply_image.image,
                       threadline.replace_exact(apply_image.state[2], apply_image.image, apply_image.exact)] END;

CREATE AGGREGATE threadline.applied_images(is_whole boolean, image jsonb, exact jsonb) (
    SFUNC = threadline.apply_image, STYPE = jsonb[], PARALLEL = SAFE
);

-- Not granted: the log as stored, with what is still in the session's buffer.
CREATE VIEW threadline.stored_change AS
SELECT l.id, l.captured_at, l.row_key, l.transaction_id, l.table_id, l.statement_no, l.schema_version, l.op,
       l.key, l.old_key, l.old_image, l.new_image, l.old_exact, l.new_exact
FROM threadline.change_log l
UNION ALL
SELECT p.id, p.captured_at, p.row_key, p.transaction_id, p.table_id, p.statement_no, p.schema_version, p.op,
       p.key, p.old_key, p.old_image, p.new_image, p.old_exact, p.new_exact
FROM threadline.pending_changes() p;

-- Not granted: the same with whole images, named, before anybody's quals.
-- The whole image of a delta: a row's changes by one transaction stand together in the order of ids, but inside the
-- transaction (statement_no, op, id) orders them. So all of them count that have an id since the last whole image but
-- one of an earlier transaction, which makes sure that the transaction of the last one is there as a whole, and of the
-- delta's own transaction those up to it.
CREATE VIEW threadline.recorded_change AS
SELECT c.id, c.captured_at, c.row_key, c.transaction_id, c.table_id, c.statement_no, c.schema_version,
       CASE WHEN c.op = 6 THEN 5::smallint ELSE c.op END AS op,
       c.key, c.old_key, c.old_image,
       CASE WHEN c.op <> 6 THEN c.new_image ELSE d.state[1] END AS new_image,
       t.table_schema,
       t.table_name,
       CASE WHEN t.rekeyed THEN (SELECT v.key_columns FROM threadline.table_version v WHERE v.table_id = c.table_id AND v.version = c.schema_version LIMIT 1) ELSE t.key_columns END AS key_columns,
       -- A mark's key is no row's. The key columns of then are looked up only where they were others.
       CASE WHEN c.op = 0 AND c.old_image IS NULL THEN NULL
            WHEN t.rekeyed THEN threadline.key_object((SELECT v.key_columns FROM threadline.table_version v WHERE v.table_id = c.table_id AND v.version = c.schema_version LIMIT 1), c.key)
            ELSE threadline.key_object(t.key_columns, c.key) END AS table_pk,
       CASE WHEN c.op <> 5 THEN NULL
            WHEN t.rekeyed THEN threadline.key_object((SELECT v.key_columns FROM threadline.table_version v WHERE v.table_id = c.table_id AND v.version = c.schema_version LIMIT 1), c.old_key)
            ELSE threadline.key_object(t.key_columns, c.old_key) END AS old_pk,
       threadline.op_name(c.op) AS op_name,
       CASE WHEN c.op IN (5, 6) THEN threadline.object_keys(c.old_image) END AS changed_fields,
       c.old_exact,
       CASE WHEN c.op <> 6 THEN c.new_exact ELSE d.state[2] END AS new_exact
FROM threadline.stored_change c
JOIN threadline.readable_table t ON t.table_id = c.table_id
-- OFFSET 0, so that the two are made of one reading.
CROSS JOIN LATERAL (
    SELECT CASE WHEN c.op = 6 THEN (
           SELECT threadline.applied_images(s.op <> 6, s.new_image, s.new_exact ORDER BY s.last_id, s.statement_no, s.op, s.id)
           FROM (
               SELECT b.*, max(b.id) OVER (PARTITION BY b.transaction_id) AS last_id
               FROM threadline.stored_change b
               WHERE b.table_id = c.table_id AND b.row_key = c.row_key AND b.key = c.key
                 AND b.id >= coalesce((
                         SELECT e.id
                         FROM (SELECT w.id, w.transaction_id
                               FROM threadline.stored_change w
                               WHERE w.table_id = c.table_id AND w.row_key = c.row_key AND w.key = c.key
                                 AND w.id < c.id AND w.op IN (3, 4, 5) AND w.transaction_id <> c.transaction_id
                               ORDER BY w.id DESC LIMIT 1) w,
                              LATERAL (
                               SELECT e.id
                               FROM threadline.stored_change e
                               WHERE e.table_id = c.table_id AND e.row_key = c.row_key AND e.key = c.key
                                 AND e.id < w.id AND e.op IN (3, 4, 5) AND e.transaction_id <> w.transaction_id
                               ORDER BY e.id DESC LIMIT 1) e), 0)
                 AND b.id < coalesce((
                         SELECT n.id
                         FROM threadline.stored_change n
                         WHERE n.table_id = c.table_id AND n.row_key = c.row_key AND n.key = c.key
                           AND n.id > c.id AND n.transaction_id <> c.transaction_id
                         ORDER BY n.id LIMIT 1), 9223372036854775807)
           ) s
           WHERE s.transaction_id <> c.transaction_id OR (s.statement_no, s.op, s.id) <= (c.statement_no, c.op, c.id)
       ) END AS state
    OFFSET 0
) d;

CREATE VIEW threadline.readable_change WITH (security_barrier) AS
SELECT * FROM threadline.recorded_change;

-- A security barrier is planned on its own and forgets any order asked for outside, so a row's newest change
-- would cost its whole history. These two carry the order inside; read them with a LIMIT and no ORDER BY.
CREATE VIEW threadline.readable_change_newest WITH (security_barrier) AS
SELECT * FROM threadline.recorded_change ORDER BY id DESC;

CREATE VIEW threadline.readable_change_oldest WITH (security_barrier) AS
SELECT * FROM threadline.recorded_change ORDER BY id;

-- Only where a row's changes stand, likewise, for looking up many: which tables are readable is asked once for all.
CREATE VIEW threadline.readable_place_newest WITH (security_barrier) AS
SELECT c.id, c.transaction_id, c.table_id, c.row_key, c.key, c.op, c.statement_no
FROM threadline.stored_change c
WHERE c.table_id = ANY (ARRAY(SELECT t.table_id FROM threadline.readable_table t))
ORDER BY c.id DESC;

CREATE VIEW threadline.readable_place_oldest WITH (security_barrier) AS
SELECT c.id, c.transaction_id, c.table_id, c.row_key, c.key, c.op, c.statement_no
FROM threadline.stored_change c
WHERE c.table_id = ANY (ARRAY(SELECT t.table_id FROM threadline.readable_table t))
ORDER BY c.id;

-- Where changes stand in the order of a transaction, without their images.
CREATE VIEW threadline.readable_place WITH (security_barrier) AS
SELECT c.id, c.transaction_id, c.table_id, c.captured_at, c.statement_no, least(c.op, 5::smallint) AS op
FROM threadline.stored_change c
WHERE c.table_id = ANY (ARRAY(SELECT t.table_id FROM threadline.readable_table t));

-- Helper rows "the row that bears key came from old_key"; holder is the negative table_id they are indexed under.
CREATE VIEW threadline.readable_arrival WITH (security_barrier) AS
SELECT c.table_id AS holder, t.table_id, c.row_key, c.key, c.old_key, c.transaction_id, c.statement_no, c.id
FROM (
    SELECT l.table_id, l.row_key, l.key, l.old_key, l.transaction_id, l.statement_no, l.id
    FROM threadline.change_log l
    UNION ALL
    SELECT p.table_id, p.row_key, p.key, p.old_key, p.transaction_id, p.statement_no, p.id
    FROM threadline.pending_changes() p
) c
JOIN threadline.readable_table t ON t.table_id = -c.table_id;

CREATE FUNCTION threadline.statements_without_text(statements jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT pg_catalog.jsonb_agg(e.value OPERATOR(pg_catalog.-) 'text' ORDER BY e.n)
        FROM pg_catalog.jsonb_array_elements(statements_without_text.statements) WITH ORDINALITY AS e (value, n));

-- What a statement's text says of a table is for those who may read every table's history.
CREATE VIEW threadline.readable_transaction AS
SELECT x.id, x.commit_no, x.started_at, x.occurred_at, x.committed_at, x.origin, x.xid, x.change_count, x.backend_pid, x.prepared, x.one_snapshot,
       x.action_id, x.change_ids, x.snapshot, x.session_user_name, x.current_user_name, x.application_name, x.client_addr,
       x.actor_ref, x.correlation_id, x.request_id, x.job_id, x.source, x.context,
       CASE WHEN x.statements OPERATOR(pg_catalog.@?) '$[*].text'
                 AND NOT pg_catalog.has_table_privilege('threadline.change_log'::regclass, 'SELECT')
            THEN threadline.statements_without_text(x.statements) ELSE x.statements END AS statements
FROM (
    SELECT l.* FROM threadline.transaction_log l
    UNION ALL
    SELECT p.* FROM threadline.pending_transaction() p
) x;

-- Whose view of the log counts rather than everything up to a horizon: a transaction's, by the snapshot recorded with it.
CREATE TYPE threadline.viewer AS (
    transaction_id uuid,
    snapshot       pg_snapshot,
    origin         bigint,
    sees_own       boolean
);

-- Whether a transaction that committed before the viewer did was there for it; without a viewer every one is. Xids mean
-- nothing outside their cluster: what another one recorded came with a restore.
CREATE FUNCTION threadline.is_seen(p_viewer threadline.viewer, p_transaction_id uuid, p_origin bigint, p_xid xid8) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (is_seen.p_viewer).transaction_id IS NULL THEN true
            WHEN is_seen.p_transaction_id = (is_seen.p_viewer).transaction_id THEN (is_seen.p_viewer).sees_own
            WHEN is_seen.p_origin = (is_seen.p_viewer).origin
                THEN pg_catalog.pg_visible_in_snapshot(is_seen.p_xid, (is_seen.p_viewer).snapshot)
            ELSE true END;

CREATE VIEW threadline.readable_prepared AS
SELECT p.origin, p.xid, p.stamped_at, p.known_at FROM threadline.prepared_transaction p;

CREATE VIEW threadline.readable_action AS
SELECT * FROM threadline.action_log;

-- commit_no and committed_at tell when a baseline counts. Its transaction may have been purged away, which
-- leaves its own first id and time; both are NULL for a baseline of the caller's open transaction.
CREATE VIEW threadline.readable_baseline WITH (security_barrier) AS
SELECT b.table_id, b.first_change_id, b.transaction_id, b.row_count, b.taken_at,
       CASE WHEN x.id IS NULL THEN b.first_change_id ELSE x.commit_no END AS commit_no,
       CASE WHEN x.id IS NULL THEN b.taken_at ELSE x.committed_at END AS committed_at
FROM threadline.baseline b
JOIN threadline.readable_table t ON t.table_id = b.table_id
LEFT JOIN LATERAL (SELECT x.id, x.commit_no, x.committed_at FROM threadline.readable_transaction x WHERE x.id = b.transaction_id OFFSET 0) x ON true;

-- Whether rows have the key they had after their key columns became of other types: integers and uuids are spelt the
-- same as text, and found in the same place (plain in src/capture/row_key.rs).
CREATE FUNCTION threadline.keeps_keys(before text[], after text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN NOT EXISTS (SELECT FROM unnest(before, after) AS k (b, a)
                   WHERE a IS DISTINCT FROM b
                     AND NOT coalesce(b = 'integer' AND a IN ('numeric', 'text') OR b = 'uuid' AND a = 'text', false));

-- What the catalogs show to be wrong now is a gap whether or not anybody has looked before: see observe_capture.
CREATE VIEW threadline.readable_gap WITH (security_barrier) AS
SELECT g.table_id, t.table_schema, t.table_name, g.reason,
       coalesce(g.since_at, '-infinity') AS since_at,
       coalesce(g.until_at, 'infinity') AS until_at,
       g.detail
FROM threadline.gap g
JOIN threadline.readable_table t ON t.table_id = g.table_id
WHERE g.reason <> 'purged'
UNION ALL
SELECT w.table_id, t.table_schema, t.table_name, 'purged', '-infinity'::timestamptz, w.purged_before, NULL::jsonb
FROM threadline.purge_watermark w
JOIN threadline.readable_table t ON t.table_id = w.table_id
UNION ALL
SELECT t.table_id, t.table_schema, t.table_name, f.reason, greatest(t.enabled_at, k.intact_at), 'infinity'::timestamptz, f.detail
FROM threadline.readable_table t
CROSS JOIN LATERAL threadline.gaps_now(t.table_id, t.relation, t.options @> '{"fires": "always"}') f
LEFT JOIN threadline.trigger_check k ON k.table_id = t.table_id
WHERE t.enabled
  AND NOT EXISTS (SELECT FROM threadline.gap g WHERE g.table_id = t.table_id AND g.reason = f.reason AND g.until_at IS NULL)
UNION ALL
-- The recorded keys of one row before and after a change of shape do not meet: digests (full_row.sql), or keys that are
-- spelt otherwise now.
SELECT t.table_id, t.table_schema, t.table_name, 'shape_changed', s.recorded_at,
       coalesce((SELECT min(b.taken_at) FROM threadline.baseline b WHERE b.table_id = t.table_id AND b.first_change_id > s.from_change_id), 'infinity'),
       jsonb_build_object('schema_version', s.version)
FROM threadline.readable_table t
CROSS JOIN LATERAL (
    SELECT v.version, v.from_change_id, v.recorded_at, v.key_shape, pg_catalog.cardinality(v.key_columns) AS key_length,
           lag(v.key_shape) OVER w AS shape_before, lag(pg_catalog.cardinality(v.key_columns)) OVER w AS length_before
    FROM threadline.table_version v
    WHERE v.table_id = t.table_id
    WINDOW w AS (ORDER BY v.version, v.from_change_id)
) s
-- Under another key there is always a new baseline.
WHERE s.key_length = s.length_before
  AND CASE WHEN s.key_shape = s.shape_before THEN false ELSE NOT threadline.keeps_keys(s.shape_before, s.key_shape) END;

-- Two sessions may have recorded the same version: see table_version.
CREATE VIEW threadline.readable_version WITH (security_barrier) AS
SELECT DISTINCT ON (v.table_id, v.version)
       v.table_id, t.table_schema, t.table_name, v.version, v.columns, v.key_columns, v.schema_name, v.table_name AS name_then,
       v.from_change_id, v.recorded_at, v.types
FROM threadline.table_version v
JOIN threadline.readable_table t ON t.table_id = v.table_id
ORDER BY v.table_id, v.version, v.from_change_id, v.recorded_at;

-- The contract.

CREATE VIEW threadline.audit_changes WITH (security_barrier) AS
SELECT c.id, c.transaction_id, c.table_schema, c.table_name, c.table_pk, c.old_pk, c.op_name AS op, c.changed_fields,
       c.old_image AS changed_from, c.new_image AS data_after, c.captured_at, c.statement_no, c.schema_version
FROM threadline.recorded_change c
WHERE c.op <> 2;
COMMENT ON VIEW threadline.audit_changes IS
    'Every recorded change of the tables the caller may read, one row each: see the type audit_change_row. A filter on table_pk scans the window; audit_history(table, key) is the indexed way. The caller''s own changes show as soon as the statement that made them has ended.';

CREATE VIEW threadline.audit_transactions AS
SELECT x.id, x.commit_no, x.xid, x.started_at, x.occurred_at, x.committed_at, x.actor_ref, x.action_id,
       x.correlation_id, x.request_id, x.job_id, x.source, x.context, x.session_user_name, x.current_user_name,
       x.application_name, x.client_addr, x.backend_pid, x.snapshot, x.change_count, x.statements, x.origin
FROM threadline.readable_transaction x;
COMMENT ON VIEW threadline.audit_transactions IS
    'Transactions that changed a captured table or recorded an action: see the type audit_transaction_row. committed_at and commit_no are NULL for the caller''s own open transaction.';

CREATE VIEW threadline.audit_actions AS
SELECT a.id, a.name, a.status, a.verb, a.category, a.reason, a.comment, a.actor_ref,
       a.correlation_id, a.request_id, a.job_id, a.inserted_at
FROM threadline.action_log a;
COMMENT ON VIEW threadline.audit_actions IS
    'What applications said they were doing (record_action). audit_transactions.action_id names the last one of a transaction.';

CREATE VIEW threadline.audit_schema_versions WITH (security_barrier) AS
SELECT v.table_schema, v.table_name, v.version, v.columns, v.key_columns::text[] AS key_columns,
       v.schema_name::text AS schema_then, v.name_then::text AS name_then,
       v.from_change_id, v.recorded_at AS valid_from
FROM threadline.readable_version v;
COMMENT ON VIEW threadline.audit_schema_versions IS
    'The shapes a table had: columns as [{"attnum","name","type","redact"}], redact being exclude, mask or path (with "paths" and "placeholder"), valid from change from_change_id and time valid_from until the next version.';

CREATE VIEW threadline.audit_tables WITH (security_barrier) AS
SELECT t.table_schema, t.table_name, t.relation, t.key_columns::text[] AS key_columns,
       t.exclude::text[] AS exclude, t.mask, t.placeholder, t.options,
       t.enabled, t.enabled_at, t.disabled_at,
       v.first_change_id, v.first_change_at, b.baseline_at
FROM threadline.readable_table t
LEFT JOIN LATERAL (
    SELECT min(s.from_change_id) AS first_change_id, min(s.recorded_at) AS first_change_at
    FROM threadline.table_version s
    WHERE s.table_id = t.table_id
) v ON true
LEFT JOIN LATERAL (
    SELECT max(s.taken_at) AS baseline_at FROM threadline.baseline s WHERE s.table_id = t.table_id
) b ON true;
COMMENT ON VIEW threadline.audit_tables IS
    'Tables under capture, now or once (enabled false): key (empty: the whole row) and redacted columns, options, when capture began and ended, the first change recorded, the newest baseline. relation is NULL for a dropped table.';

CREATE VIEW threadline.audit_gaps WITH (security_barrier) AS
SELECT g.table_schema, g.table_name, g.reason, g.since_at, g.until_at, g.detail
FROM threadline.readable_gap g;
COMMENT ON VIEW threadline.audit_gaps IS
    'Intervals [since_at, until_at) in which a table''s changes were not recorded or are gone, and why: not_yet_enabled, disabled, replica_role, trigger_dropped, bypass (detail: a partition that came, went or was rewritten, or a trigger that leaves changes out), purged, warn_on_error, shape_changed (the keys recorded before and after cannot be matched until the next baseline: of a table without a key, or whose key columns are of other types). until_at infinity: still so.';
