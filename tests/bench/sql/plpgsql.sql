CREATE SCHEMA plpgsql_log;

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

DO $$
DECLARE
    target record;
BEGIN
    FOR target IN
        SELECT c.conrelid::regclass AS name, a.attname AS key
        FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        WHERE c.contype = 'p' AND c.connamespace = 'public'::regnamespace
    LOOP
        EXECUTE format('CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION plpgsql_log.capture(%L)', target.name, target.key);
    END LOOP;
END
$$;
