-- The same history as other systems keep it, for their own recipes.

-- As the generic trigger of plpgsql.sql leaves it, with its indexes.
CREATE SCHEMA generic;
CREATE TABLE generic.audit_changes AS
SELECT gen_random_uuid() AS id, c.transaction_id, c.table_schema, c.table_name, c.table_pk, c.op, c.data_after, c.changed_fields, c.captured_at
FROM threadline.audit_changes c
WHERE c.table_name = 'acct';
ALTER TABLE generic.audit_changes ADD PRIMARY KEY (id);
CREATE INDEX ON generic.audit_changes (transaction_id);
CREATE INDEX ON generic.audit_changes (table_schema, table_name, table_pk, captured_at DESC, id DESC);

-- As pgMemento does: old values by row, which are looked up column by column, and what has none is as it is now.
CREATE SCHEMA memento;
CREATE TABLE memento.row_log AS
SELECT c.id, (c.table_pk ->> 'aid')::bigint AS audit_id, c.op, c.changed_from AS old_data, c.captured_at
FROM threadline.audit_changes c
WHERE c.table_name = 'acct' AND c.op <> 'snapshot';
ALTER TABLE memento.row_log ADD PRIMARY KEY (id);
CREATE INDEX ON memento.row_log (audit_id, id);
CREATE INDEX ON memento.row_log USING brin (captured_at);
VACUUM (ANALYZE) generic.audit_changes;
VACUUM (ANALYZE) memento.row_log;
