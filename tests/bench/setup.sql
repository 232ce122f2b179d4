-- Three copies of the same two tables, one per system, and the generic trigger the third one has.
CREATE EXTENSION threadline_forensics;

CREATE SCHEMA none;
CREATE SCHEMA ours;
CREATE SCHEMA plpgsql;
CREATE SCHEMA plpgsql_log;

CREATE TABLE none.acct (aid int PRIMARY KEY, bid int, abalance int, filler char(84)) WITH (autovacuum_enabled = off);
CREATE TABLE none.wide (
    id int PRIMARY KEY, c1 bigint, c2 smallint, c3 numeric, c4 numeric(12,2), c5 float8, c6 text, c7 text, c8 text, c9 text,
    c10 bool, c12 timestamptz, c13 date, c14 uuid, c15 jsonb, c16 int[], c17 text, c18 text, c19 int, c20 text
) WITH (autovacuum_enabled = off);

CREATE TABLE ours.acct (LIKE none.acct INCLUDING ALL) WITH (autovacuum_enabled = off);
CREATE TABLE ours.wide (LIKE none.wide INCLUDING ALL) WITH (autovacuum_enabled = off);
CREATE TABLE plpgsql.acct (LIKE none.acct INCLUDING ALL) WITH (autovacuum_enabled = off);
CREATE TABLE plpgsql.wide (LIKE none.wide INCLUDING ALL) WITH (autovacuum_enabled = off);

SELECT threadline.audit_enable('ours.acct');
SELECT threadline.audit_enable('ours.wide');

-- The classic shape: a transaction row found or made for every changed row, the whole image as jsonb, changed names by jsonb_each.
CREATE TABLE plpgsql_log.audit_transactions (
    id uuid PRIMARY KEY,
    txid bigint NOT NULL UNIQUE,
    occurred_at timestamptz NOT NULL,
    actor_ref jsonb
);
CREATE TABLE plpgsql_log.audit_changes (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    transaction_id uuid NOT NULL REFERENCES plpgsql_log.audit_transactions ON DELETE CASCADE,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    table_pk jsonb NOT NULL,
    op text NOT NULL CHECK (op IN ('insert', 'update', 'delete')),
    data_after jsonb,
    changed_fields text[],
    captured_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON plpgsql_log.audit_changes (transaction_id);
CREATE INDEX ON plpgsql_log.audit_changes (table_schema, table_name, table_pk, captured_at DESC, id DESC);

CREATE FUNCTION plpgsql_log.capture() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_txid bigint := txid_current();
    v_transaction uuid;
    v_after jsonb;
    v_changed text[];
    v_key jsonb;
BEGIN
    INSERT INTO plpgsql_log.audit_transactions (id, txid, occurred_at, actor_ref)
    VALUES (gen_random_uuid(), v_txid, clock_timestamp(), nullif(current_setting('threadline.actor_ref', true), '')::jsonb)
    ON CONFLICT (txid) DO NOTHING;
    SELECT t.id INTO v_transaction FROM plpgsql_log.audit_transactions t WHERE t.txid = v_txid;
    IF TG_OP <> 'DELETE' THEN
        v_after := to_jsonb(NEW);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT array_agg(n.key ORDER BY n.key) INTO v_changed
        FROM jsonb_each(v_after) n JOIN jsonb_each(to_jsonb(OLD)) o ON o.key = n.key
        WHERE n.value IS DISTINCT FROM o.value;
    END IF;
    SELECT jsonb_object_agg(k, coalesce(v_after, to_jsonb(OLD)) ->> k) INTO v_key FROM unnest(TG_ARGV) k;
    INSERT INTO plpgsql_log.audit_changes (transaction_id, table_schema, table_name, table_pk, op, data_after, changed_fields)
    VALUES (v_transaction, TG_TABLE_SCHEMA, TG_TABLE_NAME, v_key, lower(TG_OP), v_after, v_changed);
    RETURN NULL;
END
$$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON plpgsql.acct FOR EACH ROW EXECUTE FUNCTION plpgsql_log.capture('aid');
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON plpgsql.wide FOR EACH ROW EXECUTE FUNCTION plpgsql_log.capture('id');
