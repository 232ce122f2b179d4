-- A table's rows at a time, told by its rows of now: those that did not change since are as they were, for the others
-- the first change since then has the row before it. What a reader asks for is most times near, and then this reads the
-- table once and a little of the log, where building the state from the log reads and sorts every change there is.

-- The first change of a transaction that does not count at a horizon; the greatest number there is when there is none.
CREATE FUNCTION threadline.first_change_after(p_at timestamptz, p_horizon bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN least(
        (SELECT min(lower(x.change_ids)) FROM threadline.transactions_between(p_horizon, p_at, 9223372036854775807, 'infinity') x),
        (SELECT min(lower(x.change_ids)) FROM threadline.pending_transaction() x),
        9223372036854775807);
END
$$;

-- Whether a recorded key can be looked for among the table's rows: its text reads back as the value it was, whatever was
-- renamed since.
CREATE FUNCTION threadline.has_plain_key(p_relation regclass, p_key_columns name[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT count(*) = cardinality(has_plain_key.p_key_columns) AND count(*) > 0
    FROM pg_attribute a
    WHERE a.attrelid = has_plain_key.p_relation AND a.attnum > 0 AND NOT a.attisdropped
      AND a.attname = ANY (has_plain_key.p_key_columns)
      AND a.atttypid = ANY ('{smallint, integer, bigint, numeric, text, character varying, uuid, boolean, bytea, date,
                              timestamp without time zone, timestamp with time zone}'::regtype[]);
END;

-- From which change on to rewind a table to a horizon; NULL when the log tells its state at less cost, or alone: where
-- anything but recorded changes may have come between (a gap, another shape, a TRUNCATE recorded as one mark), where
-- keys cannot be compared, or documents are masked in parts. Ids are drawn as changes are made, so they say how much of
-- the log lies since then.
CREATE FUNCTION threadline.rewind_start(p_table_id integer, p_relation regclass, p_base threadline.state_base, p_at timestamptz, p_horizon bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_last constant bigint := (SELECT x.commit_no
                               FROM threadline.readable_transaction x
                               WHERE x.committed_at IS NOT NULL
                               ORDER BY x.committed_at DESC, x.commit_no DESC
                               LIMIT 1);
    v_table record;
    v_shape jsonb;
    v_start bigint;
BEGIN
    IF (v_last - least(v_last, p_horizon)) * 2 > v_last - p_base.first_change_id
       OR NOT has_table_privilege(p_relation, 'SELECT') OR row_security_active(p_relation) THEN
        RETURN NULL;
    END IF;
    SELECT t.key_columns, t.rekeyed INTO v_table FROM threadline.readable_table t WHERE t.table_id = p_table_id AND t.enabled;
    SELECT v.columns INTO v_shape
    FROM threadline.readable_version v
    WHERE v.table_id = p_table_id AND v.recorded_at <= p_base.since
      AND NOT EXISTS (SELECT FROM threadline.readable_version w WHERE w.table_id = p_table_id AND w.version > v.version)
    ORDER BY v.version DESC
    LIMIT 1;
    IF v_table.rekeyed IS DISTINCT FROM false
       OR v_shape IS DISTINCT FROM threadline.present_shape(p_relation)
       OR NOT threadline.has_plain_key(p_relation, v_table.key_columns)
       OR EXISTS (SELECT FROM jsonb_to_recordset(v_shape) AS c (name name, redact text)
                  WHERE c.redact = 'path' OR c.redact IS NOT NULL AND c.name = ANY (v_table.key_columns))
       OR EXISTS (SELECT FROM threadline.gaps_between(p_table_id, p_base.since, 'infinity')) THEN
        RETURN NULL;
    END IF;
    v_start := threadline.first_change_after(p_at, p_horizon);
    IF EXISTS (SELECT FROM threadline.readable_mark m WHERE m.table_id = p_table_id AND m.id >= v_start) THEN
        RETURN NULL;
    END IF;
    RETURN v_start;
END
$$;

-- Parameters: $1 table_id, $2 where rewind_start says, $3 the horizon. Result: the typed rows.
CREATE FUNCTION threadline.rewind_statement(p_table_id integer, p_relation regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT format($statement$
        WITH change AS MATERIALIZED (
            SELECT c.id, c.row_key, c.key, c.old_key, c.transaction_id, c.statement_no, c.schema_version, c.op,
                   c.old_image, c.new_image, c.old_exact, c.new_exact, x.commit_no
            FROM threadline.readable_change c
            JOIN threadline.readable_transaction x ON x.id = c.transaction_id
            -- A snapshot tells of no change.
            WHERE c.table_id = $1 AND c.id >= $2 AND c.op <> 3 AND (x.commit_no > $3 OR x.commit_no IS NULL)
        ), earliest AS MATERIALIZED (
            SELECT DISTINCT ON (c.row_key, c.key) c.*
            FROM change c
            ORDER BY c.row_key, c.key, c.commit_no NULLS LAST, c.statement_no, c.op, c.id
        ), gone AS MATERIALIZED (
            SELECT %1$s FROM earliest f
        ), past AS (
            SELECT f.schema_version,
                   coalesce(f.new_image, '{}') || coalesce(f.old_image, '{}') AS image,
                   threadline.replace_exact(f.new_exact, coalesce(f.old_image, '{}'), f.old_exact) AS exact
            FROM earliest f
            WHERE f.op IN (0, 1) OR f.op = 5 AND f.old_key IS NULL
            UNION ALL
            -- Moved away: the row before is told by its update, which stands under the new key.
            SELECT u.schema_version,
                   u.new_image || coalesce(u.old_image, '{}'),
                   threadline.replace_exact(u.new_exact, coalesce(u.old_image, '{}'), u.old_exact)
            FROM earliest f
            JOIN change u ON u.transaction_id = f.transaction_id AND u.statement_no = f.statement_no
                         AND u.key = f.old_key AND u.old_key = f.key AND u.op = 5
            WHERE f.op = 2
        )
        SELECT %2$s FROM %3$s t WHERE NOT EXISTS (SELECT FROM gone g WHERE %4$s)
        UNION ALL
        %5$s
        $statement$,
        k.typed,
        (SELECT string_agg(CASE WHEN c.redact IS NOT NULL OR a.attgenerated = 'v' THEN format('NULL::%s', format_type(a.atttypid, a.atttypmod))
                                ELSE format('t.%I', a.attname) END, ', ' ORDER BY a.attnum)
         FROM pg_attribute a
         LEFT JOIN jsonb_to_recordset(threadline.present_shape(p_relation)) AS c (attnum smallint, redact text) ON c.attnum = a.attnum
         WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT CASE WHEN c.relkind = 'p' THEN '' ELSE 'ONLY ' END FROM pg_class c WHERE c.oid = p_relation) || p_relation,
        k.matches,
        threadline.typed_statement(p_table_id, p_relation, 'past s'))
    FROM (
        SELECT string_agg(format('(%s)::%s%s AS k%s',
                                 CASE WHEN cardinality(t.key_columns) = 1 THEN 'f.key' ELSE format('f.key::jsonb ->> %s', n.n - 1) END,
                                 format_type(a.atttypid, a.atttypmod),
                                 CASE WHEN a.attcollation <> 0 THEN (SELECT format(' COLLATE %I.%I', o.nspname, l.collname)
                                                                     FROM pg_collation l JOIN pg_namespace o ON o.oid = l.collnamespace
                                                                     WHERE l.oid = a.attcollation) END,
                                 n.n), ', ' ORDER BY n.n) AS typed,
               string_agg(format('g.k%s = t.%I', n.n, a.attname), ' AND ' ORDER BY n.n) AS matches
        FROM threadline.readable_table t
        CROSS JOIN LATERAL unnest(t.key_columns) WITH ORDINALITY AS n (name, n)
        JOIN pg_attribute a ON a.attrelid = p_relation AND a.attname = n.name
        WHERE t.table_id = p_table_id
    ) k
$function$;
