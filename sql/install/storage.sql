-- Physical storage. Nobody is granted anything here: people read the views of views.sql.
-- Capture writes change_log and transaction_log below the executor (src/capture/log_writer.rs), which
-- checks column types against the lists there: a change here is a change there.

-- One counter orders the whole record: change ids and commit numbers are drawn from it, each draw a block
-- of 64, so that a batch of changes costs one draw and every change has an id below its transaction's commit_no.
CREATE SEQUENCE threadline.change_id_seq AS bigint START WITH 64 INCREMENT BY 64 CACHE 1;
CREATE SEQUENCE threadline.table_id_seq AS integer;

-- A table under capture, now or once. Its identity is table_id; "relation" is how the running cluster
-- knows it and is restored by name, since dumps write regclass as a qualified name.
CREATE TABLE threadline.captured_table (
    table_id       integer     NOT NULL DEFAULT pg_catalog.nextval('threadline.table_id_seq') PRIMARY KEY,
    relation       regclass    NOT NULL,
    origin         bigint      NOT NULL,              -- system identifier of the cluster that wrote the row
    schema_name    name        NOT NULL,              -- as last recorded
    table_name     name        NOT NULL,
    key_columns    name[]      NOT NULL,              -- empty: the whole row is the key (full_row.sql)
    key_attnums    int2[]      NOT NULL,
    exclude        name[]      NOT NULL DEFAULT '{}',
    exclude_attnums int2[]     NOT NULL DEFAULT '{}',
    mask           name[]      NOT NULL DEFAULT '{}',
    mask_attnums   int2[]      NOT NULL DEFAULT '{}',
    placeholder    text        NOT NULL DEFAULT '[REDACTED]',
    options        jsonb       NOT NULL DEFAULT '{}',
    enabled        boolean     NOT NULL DEFAULT true,
    enabled_at     timestamptz NOT NULL,              -- first put under capture
    disabled_at    timestamptz,                       -- NULL while enabled
    has_deltas     boolean     NOT NULL DEFAULT false, -- was ever captured with delta images
    by_schema      boolean     NOT NULL DEFAULT false, -- put under capture with its schema: given up rather than stop writes when its key goes
    rekeyed        boolean     NOT NULL DEFAULT false, -- once captured under other key columns: a change's are those of its shape
    mask_paths     text[]      NOT NULL DEFAULT '{}', -- paths into JSON columns, each with the number of its column
    mask_path_attnums int2[]   NOT NULL DEFAULT '{}'
);

-- The columns whose values make the digest of a row of a table without a key, as far as a change of them changes digests.
CREATE FUNCTION threadline.digested_shape(columns jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN (SELECT coalesce(string_agg(concat_ws(' ', c.attnum::text, c.type, c.paths::text, c.placeholder), ', ' ORDER BY c.attnum), '')
        FROM jsonb_to_recordset(digested_shape.columns) AS c (attnum smallint, type text, redact text, paths jsonb, placeholder text)
        WHERE coalesce(c.redact, 'path') = 'path');

-- What decides how a key is spelt: the key columns' types, or what makes the digest.
CREATE FUNCTION threadline.key_shape(columns jsonb, key_columns name[]) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN cardinality(key_shape.key_columns) = 0 THEN ARRAY['row: ' || threadline.digested_shape(key_shape.columns)]
       ELSE ARRAY(SELECT CASE WHEN c.type IN ('smallint', 'integer', 'bigint') THEN 'integer'
                              WHEN c.type = 'text' OR starts_with(c.type, 'character varying') THEN 'text'
                              WHEN starts_with(c.type, 'numeric') THEN 'numeric'
                              ELSE c.type END
                  FROM unnest(key_shape.key_columns) WITH ORDINALITY AS k (name, n)
                  LEFT JOIN jsonb_to_recordset(key_shape.columns) AS c (name text, type text) ON c.name = k.name
                  ORDER BY k.n) END;

-- The shape of a table as its changes were recorded: columns [{"attnum":1,"name":"id","type":"bigint","redact":"mask"}].
-- redact: exclude, mask, or path, with the "paths" below the column and their "placeholder".
-- No unique key: two sessions that first see a new shape together record it twice, identically, rather than wait for each other.
CREATE TABLE threadline.table_version (
    table_id     integer     NOT NULL,
    version      integer     NOT NULL,
    schema_name  name        NOT NULL,
    table_name   name        NOT NULL,
    key_columns  name[]      NOT NULL,
    columns      jsonb       NOT NULL,
    from_change_id bigint    NOT NULL,
    recorded_at  timestamptz NOT NULL,
    origin       bigint      NOT NULL,                -- system identifier of the cluster that recorded it
    first_xid    xid8        NOT NULL,                -- what was written by this xid or a later one has this shape
    types        jsonb       NOT NULL DEFAULT '{}',   -- labels, attributes and casts to json of the types in it, by the types' OIDs (src/catalog/definition.rs)
    key_shape    text[]      GENERATED ALWAYS AS (threadline.key_shape(columns, key_columns)) STORED
);
CREATE INDEX table_version_idx ON threadline.table_version (table_id, version);

-- Where a table's recorded state starts: every row that existed then has a change (op snapshot) with an id >= first_change_id,
-- and whatever was recorded before it does not tell the state after it.
CREATE TABLE threadline.baseline (
    table_id        integer     NOT NULL,
    first_change_id bigint      NOT NULL,
    transaction_id  uuid        NOT NULL,
    row_count       bigint      NOT NULL,
    taken_at        timestamptz NOT NULL,
    PRIMARY KEY (table_id, first_change_id)
);

-- Intervals in which changes of a table were not recorded. Open while until_at is NULL.
CREATE TABLE threadline.gap (
    gap_id     bigint      NOT NULL GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    table_id   integer     NOT NULL,
    reason     text        NOT NULL CHECK (reason IN ('not_yet_enabled', 'disabled', 'replica_role', 'trigger_dropped', 'bypass', 'purged', 'warn_on_error')),
    since_at   timestamptz,
    until_at   timestamptz,
    detail     jsonb
);
CREATE INDEX gap_table_idx ON threadline.gap (table_id);

-- Partitions of captured tables that ever held a row, each as it was when its first row was recorded. No unique key, as
-- above. trigger_id is the row trigger that it got with its attachment, filenode its file then, or 0 since a recorded
-- TRUNCATE emptied it; came_with_rows: rows were there already that no change tells of.
CREATE TABLE threadline.known_partition (
    table_id       integer     NOT NULL,
    relation       regclass    NOT NULL,
    origin         bigint      NOT NULL,
    trigger_id     oid         NOT NULL,
    filenode       oid         NOT NULL,
    came_with_rows boolean     NOT NULL,
    noted_at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX known_partition_idx ON threadline.known_partition (table_id);

-- When a table's triggers were last seen in order, all of them.
CREATE TABLE threadline.trigger_check (
    table_id  integer     NOT NULL PRIMARY KEY,
    intact_at timestamptz NOT NULL
);

-- Schemas whose new tables are put under capture as they appear. The name decides, and is what a restored copy has;
-- schema_oid follows a rename.
CREATE TABLE threadline.future_schema (
    schema_name   name        NOT NULL PRIMARY KEY,
    schema_oid    oid         NOT NULL,
    except_tables name[]      NOT NULL DEFAULT '{}',
    since         timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    set_by        name        NOT NULL DEFAULT session_user
);

-- Tables that are not under capture on purpose. Found again as captured_table is.
CREATE TABLE threadline.expected_uncovered (
    relation    regclass    NOT NULL PRIMARY KEY,
    origin      bigint      NOT NULL,
    schema_name name        NOT NULL,
    table_name  name        NOT NULL,
    reason      text        NOT NULL,
    noted_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    noted_by    name        NOT NULL DEFAULT session_user
);

-- One row per recorded change, and helper rows of op 2 and of negative table_id for key changes (below).
--   op: 0 truncate, 1 delete, 2 moved away, 3 snapshot, 4 insert, 5 update, 6 update with a delta. Within one statement of one
--       transaction what leaves a key sorts before what arrives at it, so (statement_no, op, id) orders
--       a row's changes inside a transaction, and id orders them across transactions.
--   key: the key column's text; with several key columns a JSON array of their texts; with none the digest of the
--       recorded row (digest_key in src/capture/image.rs), one for all identical rows.
--   row_key: order-preserving summary of key, for the index; key decides equality.
--   old_image: UPDATE the old values of changed columns (NULL: nothing changed), DELETE and TRUNCATE the whole old row.
--   new_image: the whole new row; NULL for DELETE, TRUNCATE and moved away. In a delta only the columns that changed,
--       and those whose values may be spelt otherwise than before (labels, attributes, names), NULL if there are none:
--       the row is the last whole image before it with all deltas since (stored_change in views.sql).
--   old_exact, new_exact: {"column": text} with what the type's output function makes of the values in old_image and new_image
--       that do not read back from there: a float's -0, json, array bounds, jsonb null, composites, types with a cast to json. NULL when there are none.
-- A TRUNCATE too large to record row by row is one row, a mark: op 0, key '', the least row_key there is, no image.
-- A key change K -> L writes the update under L with old_key = K, and two helper rows: (table_id, K, op 2,
-- old_key = L) "the row that bore K is now L", and (-table_id, L, op 2, old_key = K) "the row that bears L came from K".
CREATE TABLE threadline.change_log (
    id             bigint      NOT NULL,
    captured_at    timestamptz NOT NULL,
    row_key        bigint      NOT NULL,
    transaction_id uuid        NOT NULL,
    table_id       integer     NOT NULL,
    statement_no   integer     NOT NULL,
    schema_version integer     NOT NULL,
    op             smallint    NOT NULL,
    key            text COLLATE "C" NOT NULL,
    old_key        text COLLATE "C",
    old_image      jsonb,
    new_image      jsonb,
    old_exact      jsonb,
    new_exact      jsonb
) PARTITION BY RANGE (captured_at);

-- Indexes live on the leaves; every leaf is made LIKE this one. The default partition takes what no month's
-- partition takes, so that a missing partition never fails a write.
CREATE TABLE threadline.change_log_default PARTITION OF threadline.change_log DEFAULT;
CREATE INDEX change_log_default_id_idx ON threadline.change_log_default (id);
CREATE INDEX change_log_default_row_idx ON threadline.change_log_default (table_id, row_key, id);
CREATE INDEX change_log_default_captured_idx ON threadline.change_log_default USING brin (captured_at) WITH (autosummarize = on);
-- A publication FOR ALL TABLES would otherwise block purge and erase.
ALTER TABLE threadline.change_log_default REPLICA IDENTITY FULL;

CREATE FUNCTION threadline.stretch_of_commit(commit_no bigint) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'stretch_of_commit';
COMMENT ON FUNCTION threadline.stretch_of_commit(bigint) IS 'Internal: the stretch of 2^24 commit numbers that one is in, some hundred thousand transactions.';

-- One for all actors of the same type and id.
CREATE FUNCTION threadline.key_of_actor(actor jsonb) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'key_of_actor';
COMMENT ON FUNCTION threadline.key_of_actor(jsonb) IS 'Internal: the number under which an index of transactions has an actor with a type and an id, whatever else it says; 0 for others.';

-- One row per transaction that changed a captured table or recorded an action, written in its pre-commit.
-- Partitioned by id: a UUIDv7 starts with the time, so ranges of ids are months, and a look-up by id reads one leaf.
CREATE TABLE threadline.transaction_log (
    id                uuid        NOT NULL,
    commit_no         bigint      NOT NULL,
    started_at        timestamptz NOT NULL,
    occurred_at       timestamptz NOT NULL,
    committed_at      timestamptz NOT NULL,
    origin            bigint      NOT NULL,
    xid               xid8        NOT NULL,
    change_count      bigint      NOT NULL,
    backend_pid       integer     NOT NULL,
    prepared          boolean     NOT NULL,           -- stamped at PREPARE TRANSACTION
    one_snapshot      boolean     NOT NULL,           -- REPEATABLE READ or SERIALIZABLE: snapshot is that of every statement
    action_id         uuid,
    change_ids        int8multirange NOT NULL,
    snapshot          pg_snapshot,
    session_user_name text        NOT NULL,
    current_user_name text        NOT NULL,
    application_name  text,
    client_addr       inet,
    actor_ref         jsonb,
    correlation_id    text,
    request_id        text,
    job_id            text,
    source            text,
    context           jsonb,
    statements        jsonb
) PARTITION BY RANGE (id);

CREATE TABLE threadline.transaction_log_default PARTITION OF threadline.transaction_log DEFAULT;
CREATE UNIQUE INDEX transaction_log_default_id_idx ON threadline.transaction_log_default (id);
CREATE INDEX transaction_log_default_time_idx ON threadline.transaction_log_default (committed_at, commit_no);
-- For what an application said, newest first (timeline.sql): a transaction costs an entry for each that it did say. By the
-- hash, since an id may be longer than an entry can be, and numbers compare fast; not in a hash index, since of one
-- actor there may be millions, of which the newest are asked for. Behind the stretch, since entries in order of the hash alone would
-- touch pages all over a large index, each of which the WAL has as a whole after a checkpoint: so they touch those of the newest
-- stretch. src/pg/index_insert.rs knows functions of a column and this predicate, no others.
CREATE INDEX transaction_log_default_actor_idx ON threadline.transaction_log_default (threadline.stretch_of_commit(commit_no), threadline.key_of_actor(actor_ref), commit_no) WHERE actor_ref IS NOT NULL;
CREATE INDEX transaction_log_default_correlation_idx ON threadline.transaction_log_default (threadline.stretch_of_commit(commit_no), pg_catalog.hashtext(correlation_id), commit_no) WHERE correlation_id IS NOT NULL;
CREATE INDEX transaction_log_default_request_idx ON threadline.transaction_log_default (threadline.stretch_of_commit(commit_no), pg_catalog.hashtext(request_id), commit_no) WHERE request_id IS NOT NULL;
CREATE INDEX transaction_log_default_job_idx ON threadline.transaction_log_default (threadline.stretch_of_commit(commit_no), pg_catalog.hashtext(job_id), commit_no) WHERE job_id IS NOT NULL;
ALTER TABLE threadline.transaction_log_default REPLICA IDENTITY FULL;

-- Transactions committed in two phases, which are stamped at the first: from then until they were known to be committed nobody
-- saw them. known_at: the time of COMMIT PREPARED where the server keeps it (track_commit_timestamp), else when audit_maintain() first looked.
CREATE TABLE threadline.prepared_transaction (
    transaction_id uuid        NOT NULL PRIMARY KEY,
    origin         bigint      NOT NULL,
    xid            xid8        NOT NULL,
    stamped_at     timestamptz NOT NULL,
    known_at       timestamptz
);
CREATE INDEX prepared_transaction_time_idx ON threadline.prepared_transaction USING gist (pg_catalog.tstzrange(stamped_at, known_at));

CREATE TABLE threadline.action_log (
    id             uuid        NOT NULL PRIMARY KEY,
    transaction_id uuid        NOT NULL,
    inserted_at    timestamptz NOT NULL,
    name           text        NOT NULL,
    status         text        NOT NULL CHECK (status IN ('ok', 'error')),
    verb           text,
    category       text,
    reason         text,
    comment        text,
    actor_ref      jsonb,
    correlation_id text,
    request_id     text,
    job_id         text
);
CREATE INDEX action_log_transaction_idx ON threadline.action_log (transaction_id);
CREATE INDEX action_log_inserted_idx ON threadline.action_log (inserted_at);
CREATE INDEX action_log_correlation_idx ON threadline.action_log (pg_catalog.hashtext(correlation_id)) WHERE correlation_id IS NOT NULL;
CREATE INDEX action_log_request_idx ON threadline.action_log (pg_catalog.hashtext(request_id)) WHERE request_id IS NOT NULL;
CREATE INDEX action_log_job_idx ON threadline.action_log (pg_catalog.hashtext(job_id)) WHERE job_id IS NOT NULL;
ALTER TABLE threadline.action_log REPLICA IDENTITY FULL;

-- table_id 0 is the global policy.
CREATE TABLE threadline.retention_policy (
    table_id                  integer  NOT NULL PRIMARY KEY,
    keep                      interval,
    enabled                   boolean  NOT NULL DEFAULT false,
    delete_empty_transactions boolean  NOT NULL DEFAULT true
);

CREATE TABLE threadline.purge_run (
    run_id               bigint      NOT NULL GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    started_at           timestamptz NOT NULL,
    finished_at          timestamptz,
    status               text        NOT NULL CHECK (status IN ('running', 'completed', 'failed')),
    dry_run              boolean     NOT NULL,
    cutoff               timestamptz,
    deleted_changes      bigint      NOT NULL DEFAULT 0,
    deleted_transactions bigint      NOT NULL DEFAULT 0,
    batches_run          integer     NOT NULL DEFAULT 0,
    tables               jsonb       NOT NULL DEFAULT '{}',
    run_by               text        NOT NULL,
    error_message        text
);

-- Up to where a table's changes were purged: whatever was captured before this is gone.
CREATE TABLE threadline.purge_watermark (
    table_id      integer     NOT NULL PRIMARY KEY,
    purged_before timestamptz NOT NULL
);

CREATE TABLE threadline.role_grant (
    role_name  name        NOT NULL PRIMARY KEY,
    level      text        NOT NULL CHECK (level IN ('reader', 'operator', 'admin')),
    granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    granted_by name        NOT NULL DEFAULT session_user
);

-- What is in these tables and sequences is data of the database: dumps carry it.
DO $$
DECLARE
    relation oid;
BEGIN
    FOR relation IN
        SELECT c.oid FROM pg_catalog.pg_class c
        WHERE c.relnamespace = 'threadline'::regnamespace AND c.relkind IN ('r', 'p', 'S')
        ORDER BY c.oid
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(relation, '');
    END LOOP;
END
$$;
