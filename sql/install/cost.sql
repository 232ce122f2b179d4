-- What capture costs, as capture counts it (src/capture/cost.rs).

-- Sessions add rows, by the direct path that capture takes; maintenance sums them up. Not evidence: lost by a crash,
-- so that counting writes no WAL, and neither dumped nor replicated.
CREATE UNLOGGED TABLE threadline.capture_cost (
    table_id    integer NOT NULL,
    changes     bigint  NOT NULL,
    bytes       bigint  NOT NULL,
    wal_bytes   bigint  NOT NULL,
    capture_ns  bigint  NOT NULL
);

CREATE FUNCTION threadline.pending_cost() RETURNS SETOF threadline.capture_cost
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'pending_cost';
COMMENT ON FUNCTION threadline.pending_cost() IS 'Internal: what this session has counted and not yet added to capture_cost.';

CREATE VIEW threadline.readable_cost WITH (security_barrier) AS
SELECT t.table_id, t.table_schema, t.table_name,
       coalesce(pg_catalog.sum(c.changes), 0)::bigint AS changes,
       coalesce(pg_catalog.sum(c.bytes), 0)::bigint AS bytes,
       coalesce(pg_catalog.sum(c.wal_bytes), 0)::bigint AS wal_bytes,
       (coalesce(pg_catalog.sum(c.capture_ns), 0) / 1000)::bigint AS capture_us
FROM threadline.readable_table AS t
LEFT JOIN (
    SELECT s.table_id, s.changes, s.bytes, s.wal_bytes, s.capture_ns FROM threadline.capture_cost AS s
    UNION ALL
    SELECT p.table_id, p.changes, p.bytes, p.wal_bytes, p.capture_ns FROM threadline.pending_cost() AS p
) AS c ON c.table_id = t.table_id
GROUP BY t.table_id, t.table_schema, t.table_name;

-- For maintenance. Rows that somebody else is summing up are left to them.
CREATE FUNCTION threadline.sum_up_costs() RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    WITH summed AS (
        DELETE FROM threadline.capture_cost AS c
        WHERE c.ctid = ANY (ARRAY(SELECT s.ctid FROM threadline.capture_cost AS s FOR UPDATE SKIP LOCKED))
        RETURNING c.*
    )
    INSERT INTO threadline.capture_cost (table_id, changes, bytes, wal_bytes, capture_ns)
    SELECT s.table_id, sum(s.changes), sum(s.bytes), sum(s.wal_bytes), sum(s.capture_ns)
    FROM summed AS s
    GROUP BY s.table_id
$$;

CREATE FUNCTION threadline.audit_cost()
RETURNS TABLE (table_schema text, table_name text, changes bigint, bytes bigint, wal_bytes bigint, capture_us bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- An unlogged table cannot be read there, not even planned for.
    IF pg_is_in_recovery() THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT c.table_schema, c.table_name, c.changes, c.bytes, c.wal_bytes, c.capture_us
        FROM threadline.readable_cost AS c
        ORDER BY c.table_schema, c.table_name, c.table_id;
END
$$;

COMMENT ON FUNCTION threadline.audit_cost() IS
'What capture has cost, one row per table that is or was under capture and that the caller may read; counted by capture itself.
changes: rows recorded. bytes: their size in the log before compression, without indexes. wal_bytes: WAL written for them, indexes, page images and the transactions'' own rows included. capture_us: microseconds spent recording them, without the server''s own work of calling triggers. Transactions that write several tables share among them, by bytes, what cannot be told apart; work that was rolled back after it was written has cost as much and is counted.
Time is measured of each full batch written to the log and of a session''s first 64 rows and 64 ends of transactions; of later ones every 61st is measured and counts for as many.
The sums are since the extension was installed or the server last crashed. The counting is kept cheap: a session adds its counts to a table without WAL with its first transaction, then at most every 10 seconds, and when it ends; so other sessions'' last seconds, and those of a session that was killed, are missing, and a session that ends within 10 seconds of more than one transaction takes one transaction id more. Each time it adds one row of about 70 bytes a table, which audit_maintain() sums up. A standby returns no rows. Raises no error.';
