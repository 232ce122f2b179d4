-- What made a transaction's changes. An entry of audit_transactions.statements stands for all statements that are alike:
--   no: the number of the first; statements, ranges [[first, last, step], …]: how many and which, when there are several;
--   changes; tag, query_id, stack, cause, tags, text: see audit_statement_row. Absent where there is nothing to say.
--   approximate: the ranges hold numbers of other statements too. others: all statements after the first 1000 kinds.

CREATE TYPE threadline.audit_statement_row AS (
    no          integer,
    statements  bigint,
    ranges      jsonb,
    changes     bigint,
    tag         text,
    query_id    bigint,
    stack       jsonb,
    cause       jsonb,
    tags        jsonb,
    text        text,
    approximate boolean
);
COMMENT ON TYPE threadline.audit_statement_row IS 'A statement that changed captured tables, or several that are alike.';
COMMENT ON COLUMN threadline.audit_statement_row.no IS 'statement_no of its changes; of several statements the smallest.';
COMMENT ON COLUMN threadline.audit_statement_row.statements IS 'How many statements it stands for.';
COMMENT ON COLUMN threadline.audit_statement_row.ranges IS 'The statement_no of its changes, as [[first, last, step], …].';
COMMENT ON COLUMN threadline.audit_statement_row.tag IS 'The command that the client sent: UPDATE, CALL, DO, COPY, … NULL where no command was running: at commit, and for what logical replication applies.';
COMMENT ON COLUMN threadline.audit_statement_row.query_id IS 'As in pg_stat_statements; NULL where compute_query_id gives none or threadline.capture_query is off.';
COMMENT ON COLUMN threadline.audit_statement_row.stack IS 'The functions that were running, innermost first: [{"fn": "fn:schema.name/arity", "line": 7}]. "statement" in place of "line" in a function in SQL; "trigger" and "on" (tbl:schema.table) for a trigger''s in PL/pgSQL. A name other than letters, digits, _ and $ is in double quotes. Without fn: it is what the server calls it: an anonymous block, or a function it does not tell from another one. No more than 64. Functions in SQL that the planner inlines are not there.';
COMMENT ON COLUMN threadline.audit_statement_row.cause IS 'Why it ran, if not by itself: {"kind": "trigger", "trigger", "on"}, with "deferred": true at commit; or {"kind": "foreign_key", "on", "constraint", "action": cascade, set null or set default}, without what is not certain.';
COMMENT ON COLUMN threadline.audit_statement_row.tags IS 'sqlcommenter tags of what the client sent: traceparent (not of a prepared statement, whose comment is older than its execution), application, controller, action, route.';
COMMENT ON COLUMN threadline.audit_statement_row.text IS 'What the client sent, its first 4096 bytes. Only with threadline.capture_query = text, only if no table then under capture had excluded or masked columns, and only for who may read every table''s history.';
COMMENT ON COLUMN threadline.audit_statement_row.approximate IS 'True when the ranges hold numbers of other statements too: there were too many of them.';

CREATE FUNCTION threadline.statement_ranges(statements jsonb)
RETURNS TABLE (no integer, first_no integer, last_no integer, step integer, approximate boolean)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (e ->> 'no')::integer,
           coalesce((r ->> 0)::integer, (e ->> 'no')::integer),
           coalesce((r ->> 1)::integer, (e ->> 'no')::integer),
           coalesce((r ->> 2)::integer, 1),
           e ? 'approximate'
    FROM jsonb_array_elements(statement_ranges.statements) AS e
    LEFT JOIN LATERAL jsonb_array_elements(e -> 'ranges') AS r ON true
$$;

-- Which entry a statement belongs to: NULL when several may be it.
CREATE FUNCTION threadline.statement_entry(statements jsonb, statement_no integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN statement_entry.statements IS NULL THEN statement_entry.statement_no
        ELSE (
            SELECT coalesce(min(r.no) FILTER (WHERE NOT r.approximate), CASE WHEN min(r.no) = max(r.no) THEN min(r.no) END)
            FROM threadline.statement_ranges(statement_entry.statements) AS r
            WHERE statement_entry.statement_no BETWEEN r.first_no AND r.last_no
              AND (statement_entry.statement_no - r.first_no) % r.step = 0)
        END
$$;

CREATE FUNCTION threadline.audit_statements(transaction_id uuid) RETURNS SETOF threadline.audit_statement_row
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_statements jsonb;
BEGIN
    SELECT x.statements INTO v_statements FROM threadline.audit_transactions AS x WHERE x.id = audit_statements.transaction_id;
    IF v_statements IS NULL THEN
        RETURN QUERY
            SELECT c.statement_no, 1::bigint, jsonb_build_array(jsonb_build_array(c.statement_no, c.statement_no, 1)), count(*),
                   CASE min(c.op) WHEN 'truncate' THEN 'TRUNCATE TABLE' ELSE upper(min(c.op)) END,
                   NULL::bigint, NULL::jsonb, NULL::jsonb, NULL::jsonb, NULL::text, false
            FROM threadline.audit_changes_for_transaction(audit_statements.transaction_id) AS c
            GROUP BY c.statement_no
            ORDER BY c.statement_no;
    ELSE
        RETURN QUERY
            SELECT (e ->> 'no')::integer, coalesce((e ->> 'statements')::bigint, 1),
                   coalesce(e -> 'ranges', jsonb_build_array(jsonb_build_array(e -> 'no', e -> 'no', 1))), (e ->> 'changes')::bigint,
                   e ->> 'tag', (e ->> 'query_id')::bigint, e -> 'stack', e -> 'cause', e -> 'tags', e ->> 'text', e ? 'approximate'
            FROM jsonb_array_elements(v_statements) AS e
            ORDER BY (e ->> 'no')::integer;
    END IF;
END
$$;
COMMENT ON FUNCTION threadline.audit_statements(uuid) IS
    'The statements that made a transaction''s changes, those that are alike in one row, oldest first: see the type audit_statement_row. Empty for an unknown transaction. Where the transaction has none recorded, they are what its changes say that the caller may read. Raises no error.';

CREATE FUNCTION threadline.change_statement(change_id bigint) RETURNS SETOF threadline.audit_statement_row
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
        SELECT s.*
        FROM (SELECT c.transaction_id, c.statement_no FROM threadline.audit_changes AS c WHERE c.id = change_statement.change_id OFFSET 0) AS c
        CROSS JOIN LATERAL (SELECT t.statements FROM threadline.audit_transactions AS t WHERE t.id = c.transaction_id OFFSET 0) AS x
        CROSS JOIN LATERAL threadline.audit_statements(c.transaction_id) AS s
        WHERE s.no = threadline.statement_entry(x.statements, c.statement_no);
END
$$;
COMMENT ON FUNCTION threadline.change_statement(bigint) IS
    'The statement that made a change: see audit_statements(). Empty for a change that is unknown or that the caller may not read, and when it is not certain which of several statements it was. Raises no error.';
