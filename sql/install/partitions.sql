-- Rows that come and go with a partition: no trigger fires for them. known_partition (storage.sql) holds the partitions
-- that ever had a row, so that whoever looks can compare them with the catalogs; where the event triggers of
-- audit_enable_schema(future => true) are, the command itself records each row.

CREATE VIEW threadline.readable_partition AS
SELECT k.table_id, k.relation, k.origin, k.trigger_id, k.filenode, k.came_with_rows, k.noted_at FROM threadline.known_partition AS k;

-- The row trigger that a partition got from its table; another attachment makes another.
CREATE FUNCTION threadline.partition_trigger(leaf oid) RETURNS oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT max(g.oid) FROM pg_trigger AS g
    WHERE g.tgrelid = partition_trigger.leaf AND g.tgparentid <> 0 AND g.tgfoid = 'threadline.capture_row()'::regprocedure
$$;

-- Whether the catalogs prove that a partition held no row when it became one: it was made as a partition. CREATE TABLE …
-- PARTITION OF writes its row in pg_inherits one command number after those of its columns, and any statement that
-- writes rows takes a number of its own. What stands above it must have been there before it.
CREATE FUNCTION threadline.made_as_partition(leaf oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT
        FROM pg_attribute AS a
        JOIN pg_inherits AS h ON h.inhrelid = a.attrelid
        JOIN pg_trigger AS g ON g.oid = threadline.partition_trigger(a.attrelid)
        WHERE a.attrelid = made_as_partition.leaf AND a.attnum = -1
          AND h.xmin = a.xmin AND h.cmin::text::bigint - a.cmin::text::bigint BETWEEN 0 AND 1 AND g.xmin = a.xmin
          AND NOT EXISTS (
              SELECT
              FROM pg_partition_ancestors(made_as_partition.leaf) AS u
              JOIN pg_inherits AS e ON e.inhrelid = u.relid
              WHERE u.relid <> made_as_partition.leaf AND e.xmin = a.xmin AND e.cmin::text::bigint >= a.cmin::text::bigint))
$$;

-- What happened to the partitions of a captured table that no change tells of. state: attached (with rows, or nobody
-- knows without), detached or dropped (had rows once), rewritten (a partition without a truncate trigger has another
-- file than when it was first written: TRUNCATE, unless it was VACUUM FULL or the like). Called by every look at the
-- history: one pass over the partitions, and nothing is read but catalogs, and of a partition with a file and no note its first rows.
CREATE FUNCTION threadline.partition_findings(table_id integer, target oid) RETURNS TABLE (relation oid, state text)
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
-- Compiling the statement would take longer than running it.
SET jit = off
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = partition_findings.target AND c.relkind = 'p') THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH RECURSIVE tree AS (
        SELECT h.inhrelid FROM pg_inherits AS h WHERE h.inhparent = partition_findings.target AND NOT h.inhdetachpending
        UNION ALL
        SELECT h.inhrelid FROM tree AS t JOIN pg_inherits AS h ON h.inhparent = t.inhrelid WHERE NOT h.inhdetachpending
    ), leaf AS MATERIALIZED (
        SELECT c.oid, c.relfilenode,
               -- partition_trigger(), without a call for each.
               (SELECT max(g.oid) FROM pg_trigger AS g
                WHERE g.tgrelid = c.oid AND g.tgparentid <> 0 AND g.tgfoid = 'threadline.capture_row()'::regprocedure) AS trigger_id
        FROM tree AS t JOIN pg_class AS c ON c.oid = t.inhrelid AND c.relkind = 'r'
    ), known AS MATERIALIZED (
        SELECT k.relation::oid AS relation, k.trigger_id, k.filenode, k.came_with_rows, k.origin = here.origin AS is_ours
        FROM (SELECT threadline.origin() AS origin OFFSET 0) AS here
        CROSS JOIN threadline.readable_partition AS k
        WHERE k.table_id = partition_findings.table_id
    ), judged AS MATERIALIZED (
        SELECT l.oid, l.relfilenode, max(l.trigger_id) AS trigger_id, count(k.relation) > 0 AS is_known, coalesce(bool_or(k.came_with_rows), false) AS came_with_rows,
               -- A file of number 0 was emptied by a TRUNCATE that was recorded.
               bool_and(k.is_ours AND k.filenode NOT IN (0, l.relfilenode)) AS is_rewritten
        FROM leaf AS l
        LEFT JOIN known AS k ON k.relation = l.oid AND (k.trigger_id = l.trigger_id OR NOT k.is_ours)
        -- Without its row trigger it is a finding of another kind.
        WHERE l.trigger_id IS NOT NULL
        GROUP BY l.oid, l.relfilenode
    )
    SELECT j.oid, 'attached'
    FROM judged AS j
    WHERE j.came_with_rows
       OR NOT j.is_known
          AND (j.relfilenode <> j.oid OR pg_relation_size(j.oid) > 0)
          AND NOT threadline.made_as_partition(j.oid)
          -- What a transaction wrote that was undone leaves a file, too, and no note.
          AND (j.relfilenode <> j.oid OR threadline.holds_older_rows(partition_findings.table_id, j.oid, j.trigger_id, NULL))
    UNION ALL
    SELECT j.oid, 'rewritten'
    FROM judged AS j
    WHERE j.is_known AND j.is_rewritten
      AND NOT EXISTS (SELECT FROM pg_trigger AS g
                      WHERE g.tgrelid = j.oid AND g.tgfoid = 'threadline.capture_truncate()'::regprocedure AND g.tgenabled IN ('O', 'A'))
    UNION ALL
    SELECT DISTINCT k.relation, CASE WHEN c.oid IS NULL THEN 'dropped' ELSE 'detached' END
    FROM known AS k
    LEFT JOIN leaf AS l ON l.oid = k.relation
    LEFT JOIN pg_class AS c ON c.oid = k.relation
    WHERE k.filenode <> 0
      AND (l.oid IS NULL OR l.trigger_id <> k.trigger_id AND k.is_ours);
END
$$;

-- Notes a partition at its first recorded write, or when its rows were recorded. Two sessions may note it twice, rather
-- than wait for each other. trigger_seen: in case the transaction's snapshot is older than the attachment.
CREATE FUNCTION threadline.note_partition(table_id integer, leaf oid, trigger_seen oid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own_trigger   CONSTANT oid := coalesce(threadline.partition_trigger(note_partition.leaf), note_partition.trigger_seen);
    -- The command that attached it, if this transaction did: what it wrote before that, it wrote to another table.
    attached_here CONSTANT integer := (SELECT g.cmin::text::integer FROM pg_trigger AS g WHERE g.oid = own_trigger AND threadline.is_own_xid(g.xmin));
    with_rows     CONSTANT boolean := NOT threadline.made_as_partition(note_partition.leaf)
                                      AND threadline.holds_older_rows(note_partition.table_id, note_partition.leaf, own_trigger, attached_here);
BEGIN
    -- NULL: another session noted it meanwhile.
    IF with_rows IS NOT NULL THEN
        INSERT INTO threadline.known_partition (table_id, relation, origin, trigger_id, filenode, came_with_rows)
        SELECT note_partition.table_id, c.oid, threadline.origin(), own_trigger, c.relfilenode, with_rows
        FROM pg_class AS c WHERE c.oid = note_partition.leaf;
    END IF;
    -- Nobody else can use it yet, so no lock has to be waited for.
    IF attached_here IS NOT NULL THEN
        PERFORM threadline.arm_partition(note_partition.leaf);
    END IF;
END
$$;

-- After a baseline: these are its partitions, and all their rows are recorded.
CREATE FUNCTION threadline.note_partitions(table_id integer, target regclass) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM threadline.known_partition AS k WHERE k.table_id = note_partitions.table_id;
    INSERT INTO threadline.known_partition (table_id, relation, origin, trigger_id, filenode, came_with_rows)
    SELECT note_partitions.table_id, c.oid, threadline.origin(), threadline.partition_trigger(c.oid), c.relfilenode, false
    FROM pg_partition_tree(note_partitions.target) AS p
    JOIN pg_class AS c ON c.oid = p.relid AND c.relkind = 'r'
    WHERE c.oid <> note_partitions.target AND (c.relfilenode <> c.oid OR pg_relation_size(c.oid) > 0)
      AND threadline.partition_trigger(c.oid) IS NOT NULL
$$;

-- After a recorded TRUNCATE of a partition, before the first row written since, else at the end of the transaction. A
-- savepoint may have taken the TRUNCATE back, and the lock with it. One that was not known and held no row has not had any
-- since it became a partition; now that it has another file the catalogs would not tell.
CREATE FUNCTION threadline.note_emptied(table_id integer, leaf oid, was_empty boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_file oid;
BEGIN
    SELECT c.relfilenode INTO now_file FROM pg_class AS c WHERE c.oid = note_emptied.leaf AND c.relkind = 'r' AND threadline.is_own_xid(c.xmin);
    IF FOUND THEN
        UPDATE threadline.known_partition AS k
        SET filenode = CASE WHEN pg_relation_size(note_emptied.leaf) > 0 THEN now_file ELSE 0 END
        WHERE k.relation = note_emptied.leaf;
        INSERT INTO threadline.known_partition (table_id, relation, origin, trigger_id, filenode, came_with_rows)
        SELECT note_emptied.table_id, note_emptied.leaf, threadline.origin(), g.trigger_id,
               CASE WHEN pg_relation_size(note_emptied.leaf) > 0 THEN now_file ELSE 0 END, false
        FROM (SELECT threadline.partition_trigger(note_emptied.leaf)) AS g (trigger_id)
        WHERE note_emptied.was_empty AND g.trigger_id IS NOT NULL
          AND NOT EXISTS (SELECT FROM threadline.known_partition AS k
                          WHERE k.table_id = note_emptied.table_id AND k.relation = note_emptied.leaf AND k.trigger_id = g.trigger_id);
        PERFORM threadline.arm_partition(note_emptied.leaf);
    END IF;
END
$$;

-- A table captured for itself that was attached to a captured one goes on as a part of that.
CREATE FUNCTION threadline.take_over_partitions(root regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    attached regclass;
BEGIN
    FOR attached IN
        SELECT p.relid
        FROM pg_partition_tree(take_over_partitions.root) AS p
        JOIN threadline.captured_table AS t ON t.table_id = threadline.captured_id(p.relid) AND t.enabled
        WHERE p.relid <> take_over_partitions.root
    LOOP
        PERFORM threadline.drop_capture(attached, jsonb_build_object('captured_as', threadline.qualified_name(take_over_partitions.root)));
    END LOOP;
END
$$;

-- The rows of a partition that came or went in this transaction, recorded as inserted or deleted, with an action that says
-- why. False when there are more than the table's truncate_cap: then it stays a finding, and a gap.
CREATE FUNCTION threadline.record_partition_move(table_id integer, root regclass, leaf regclass, action text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    its_own uuid;
    rows    bigint;
BEGIN
    rows := threadline.record_partition(record_partition_move.root, record_partition_move.leaf, record_partition_move.action = 'attach');
    IF rows IS NULL THEN
        RETURN false;
    END IF;
    IF rows > 0 THEN
        -- What the application said it does stays the transaction's action.
        SELECT p.action_id INTO its_own FROM threadline.pending_transaction() AS p;
        PERFORM threadline.record_action('partition.' || record_partition_move.action, verb => record_partition_move.action, category => 'partition',
            comment => format('%s rows with partition %s of %s', rows, threadline.qualified_name(record_partition_move.leaf),
                              threadline.qualified_name(record_partition_move.root)));
        IF its_own IS NOT NULL THEN
            PERFORM threadline.note_action(its_own);
        END IF;
    END IF;
    RETURN true;
END
$$;

-- What the command that ends just now did to the partitions of a captured table. What an earlier one did unseen stays a
-- finding. A command leaves what it changed locked, so the rows are those it moved.
CREATE FUNCTION threadline.witness_partitions(root regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    root_id CONSTANT integer := threadline.captured_id(witness_partitions.root);
    moved   record;
BEGIN
    FOR moved IN
        -- First what went, so that a partition attached anew ends up there.
        SELECT f.relation, f.state FROM threadline.partition_findings(root_id, witness_partitions.root) AS f ORDER BY f.state DESC, f.relation
    LOOP
        IF moved.state = 'detached' AND EXISTS (
            -- Of a table that was detached with partitions of its own, only it was changed.
            SELECT FROM pg_class AS c
            WHERE c.oid IN (SELECT moved.relation UNION ALL SELECT a.relid FROM pg_partition_ancestors(moved.relation) AS a)
              AND threadline.is_own_xid(c.xmin))
           AND threadline.record_partition_move(root_id, witness_partitions.root, moved.relation, 'detach') THEN
            DELETE FROM threadline.known_partition AS k
            WHERE k.table_id = root_id AND k.relation = moved.relation
              AND k.trigger_id IS DISTINCT FROM threadline.partition_trigger(moved.relation);
        ELSIF moved.state = 'attached' AND EXISTS (
            SELECT FROM pg_trigger AS g
            WHERE g.oid = threadline.partition_trigger(moved.relation) AND threadline.is_own_xid(g.xmin))
           AND threadline.record_partition_move(root_id, witness_partitions.root, moved.relation, 'attach') THEN
            DELETE FROM threadline.known_partition AS k
            WHERE k.table_id = root_id AND k.relation = moved.relation AND k.trigger_id = threadline.partition_trigger(moved.relation);
            INSERT INTO threadline.known_partition (table_id, relation, origin, trigger_id, filenode, came_with_rows)
            SELECT root_id, c.oid, threadline.origin(), threadline.partition_trigger(c.oid), c.relfilenode, false
            FROM pg_class AS c WHERE c.oid = moved.relation;
        END IF;
    END LOOP;
END
$$;

-- DROP TABLE is about to drop a table: if that is a partition of a captured one, its rows are recorded while they are
-- there. The same locks in the same order as DROP TABLE takes.
CREATE FUNCTION threadline.witness_drop(target regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on
SET lock_timeout = '1s'
AS $$
DECLARE
    root    CONSTANT regclass := threadline.captured_ancestor(witness_drop.target);
    root_id CONSTANT integer := threadline.captured_id(root);
    leaf    regclass;
BEGIN
    IF root IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', threadline.qualified_name(
        (SELECT h.inhparent FROM pg_inherits AS h WHERE h.inhrelid = witness_drop.target)));
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', threadline.qualified_name(witness_drop.target));
    FOR leaf IN
        SELECT p.relid FROM pg_partition_tree(witness_drop.target) AS p JOIN pg_class AS c ON c.oid = p.relid AND c.relkind = 'r'
        ORDER BY p.relid
    LOOP
        IF threadline.record_partition_move(root_id, root, leaf, 'drop') THEN
            DELETE FROM threadline.known_partition AS k WHERE k.table_id = root_id AND k.relation = leaf;
        END IF;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING USING
        ERRCODE = SQLSTATE,
        MESSAGE = format('the rows of partition %s could not be recorded before it is dropped: %s', threadline.qualified_name(witness_drop.target), SQLERRM),
        HINT = format('SELECT threadline.audit_enable(%L);', threadline.qualified_name(root));
END
$$;

CREATE FUNCTION threadline.before_drop() RETURNS event_trigger LANGUAGE c AS 'MODULE_PATHNAME', 'before_drop';
COMMENT ON FUNCTION threadline.before_drop() IS 'Event trigger on ddl_command_start of DROP TABLE: records the rows of partitions that are about to go.';

-- What upkeep does for the partitions of all captured tables, as far as no lock stands in the way.
CREATE FUNCTION threadline.follow_partitions() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '300ms'
AS $$
DECLARE
    captured record;
BEGIN
    FOR captured IN
        SELECT t.table_id, t.relation
        FROM threadline.captured_table AS t JOIN pg_class AS c ON c.oid = t.relation AND c.relkind = 'p'
        WHERE t.enabled
        ORDER BY t.table_id
    LOOP
        BEGIN
            -- In a restored copy triggers and files have other numbers.
            UPDATE threadline.known_partition AS k
            SET origin = threadline.origin(), trigger_id = threadline.partition_trigger(c.oid), filenode = c.relfilenode
            FROM pg_class AS c
            WHERE k.table_id = captured.table_id AND k.origin <> threadline.origin() AND c.oid = k.relation
              AND threadline.partition_trigger(c.oid) IS NOT NULL;
            PERFORM threadline.note_partition(captured.table_id, f.relation, threadline.partition_trigger(f.relation))
            FROM threadline.partition_findings(captured.table_id, captured.relation) AS f
            WHERE f.state = 'attached'
              AND NOT EXISTS (SELECT FROM threadline.known_partition AS k
                              WHERE k.table_id = captured.table_id AND k.relation = f.relation AND k.trigger_id = threadline.partition_trigger(f.relation));
            PERFORM threadline.take_over_partitions(captured.relation);
            PERFORM threadline.arm_partitions(captured.relation);
        EXCEPTION WHEN lock_not_available OR deadlock_detected OR undefined_table THEN
            CONTINUE;
        END;
    END LOOP;
    BEGIN
        PERFORM threadline.disarm_partitions();
    EXCEPTION WHEN lock_not_available OR deadlock_detected OR undefined_table THEN
        RETURN;
    END;
END
$$;
