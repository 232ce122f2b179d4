-- TRUNCATE: triggers on the leaves of partitioned tables, and marks, which stand for every row of a table (storage.sql).

-- The server clones row triggers to partitions, but not this one. TRUNCATE of a partitioned table fires those of its
-- leaves too; each leaf then records itself.
CREATE FUNCTION threadline.arm_partition(leaf regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger AS g
                   WHERE g.tgrelid = arm_partition.leaf AND g.tgfoid = 'threadline.capture_truncate()'::regprocedure) THEN
        EXECUTE format('CREATE TRIGGER threadline_truncate_leaf BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION threadline.capture_truncate()',
                       threadline.qualified_name(arm_partition.leaf));
        IF threadline.fires_always(threadline.captured_ancestor(arm_partition.leaf)) THEN
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER threadline_truncate_leaf', threadline.qualified_name(arm_partition.leaf));
        END IF;
    END IF;
-- The statement that writes its first row uses it, and then its triggers cannot be altered. Without this one TRUNCATE is a gap;
-- upkeep makes it.
EXCEPTION WHEN object_in_use THEN
    RETURN;
END
$$;

CREATE FUNCTION threadline.arm_partitions(target regclass) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT threadline.arm_partition(p.relid)
    FROM pg_partition_tree(arm_partitions.target) AS p
    JOIN pg_class AS c ON c.oid = p.relid AND c.relkind = 'r'
    WHERE p.relid <> arm_partitions.target
$$;

-- Takes those triggers from tables that are no captured table's leaves any more.
CREATE FUNCTION threadline.disarm_partitions() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    former regclass;
BEGIN
    FOR former IN
        SELECT g.tgrelid
        FROM pg_trigger AS g
        WHERE g.tgfoid = 'threadline.capture_truncate()'::regprocedure AND g.tgname = 'threadline_truncate_leaf'
          AND threadline.captured_ancestor(g.tgrelid) IS NULL
    LOOP
        EXECUTE format('DROP TRIGGER threadline_truncate_leaf ON %s', threadline.qualified_name(former));
    END LOOP;
END
$$;

CREATE VIEW threadline.readable_mark WITH (security_barrier) AS
SELECT c.* FROM threadline.recorded_change c
WHERE c.row_key = '-9223372036854775808' AND c.key = '' AND c.op = 0 AND c.old_image IS NULL;

-- The first mark after a change, among those that transactions up to p_horizon committed; with a NULL horizon, among
-- all that the caller sees. TRUNCATE holds off every other writer of the table, so ids order marks and changes of
-- different transactions.
CREATE FUNCTION threadline.mark_after(p_change threadline.readable_change, p_horizon bigint) RETURNS threadline.readable_change
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_mark threadline.readable_change;
    v_from bigint;
BEGIN
    SELECT least(lower(x.change_ids), p_change.id) INTO v_from
    FROM threadline.readable_transaction x WHERE x.id = p_change.transaction_id;
    SELECT c.* INTO v_mark
    FROM threadline.readable_mark c
    WHERE c.table_id = p_change.table_id AND c.id >= coalesce(v_from, p_change.id)
      AND CASE WHEN c.transaction_id = p_change.transaction_id THEN c.statement_no > p_change.statement_no ELSE c.id > p_change.id END
    ORDER BY c.id
    LIMIT 1;
    IF p_horizon IS NOT NULL AND NOT EXISTS (
        SELECT FROM threadline.readable_transaction x WHERE x.id = v_mark.transaction_id AND x.commit_no <= p_horizon) THEN
        RETURN NULL;
    END IF;
    RETURN v_mark;
END
$$;

-- Where the last mark of a table stands in commit order: no change that stands before it tells of a row now.
CREATE FUNCTION threadline.last_mark(p_table_id integer, p_from bigint, p_horizon bigint, p_viewer threadline.viewer DEFAULT NULL)
RETURNS TABLE (commit_order bigint, statement_no integer)
LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT o.commit_order, c.statement_no
    FROM threadline.readable_mark c
    LEFT JOIN LATERAL (SELECT x.id, x.commit_no, x.origin, x.xid FROM threadline.readable_transaction x WHERE x.id = c.transaction_id OFFSET 0) x ON true
    CROSS JOIN LATERAL (SELECT CASE WHEN x.id IS NULL THEN c.id ELSE coalesce(x.commit_no, 9223372036854775807) END) AS o (commit_order)
    WHERE c.table_id = last_mark.p_table_id AND c.id >= last_mark.p_from
      AND (last_mark.p_horizon IS NULL OR c.id < last_mark.p_horizon AND o.commit_order <= last_mark.p_horizon)
      AND threadline.is_seen(last_mark.p_viewer, x.id, x.origin, x.xid)
    ORDER BY o.commit_order DESC, c.statement_no DESC
    LIMIT 1;
END;
