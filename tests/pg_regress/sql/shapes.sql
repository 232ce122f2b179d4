-- What each kind of write leaves in the record.
SET search_path = shapes, threadline;
CREATE SCHEMA shapes;
CREATE VIEW shapes.record AS
SELECT table_name, op, table_pk, old_pk, changed_fields, changed_from, data_after
FROM threadline.audit_changes WHERE table_schema = 'shapes' ORDER BY id;

CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(10,2), tags text[], twice int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO item VALUES (1, 'old', 1.50, '{a,b}');
SELECT audit_enable('item');
INSERT INTO item VALUES (2, 'new', NULL, NULL) RETURNING id;
INSERT INTO item VALUES (2, 'again') ON CONFLICT (id) DO UPDATE SET name = excluded.name;
INSERT INTO item VALUES (2, 'never') ON CONFLICT DO NOTHING;
UPDATE item SET price = 1.5 WHERE id = 1;
UPDATE item SET price = price * 2, name = upper(name) WHERE id = 1;
UPDATE item SET id = 3 WHERE id = 2;
DELETE FROM item WHERE id = 1;
COPY item (id, name) FROM stdin;
7	seven
8	\N
\.
TRUNCATE item;
SELECT * FROM record;

-- A no-op update is a change unless the policy says otherwise.
SELECT audit_enable('item', options => '{"skip_noop": true}');
INSERT INTO item VALUES (1, 'x');
UPDATE item SET name = name;
SELECT op FROM record OFFSET 11;

-- Composite keys, domains, enums; a unique key in place of a primary key.
CREATE TYPE colour AS ENUM ('red', 'green');
CREATE DOMAIN short AS varchar(5);
CREATE TABLE line (order_id bigint, code short, hue colour NOT NULL, PRIMARY KEY (order_id, code));
CREATE TABLE keyless (a int NOT NULL, b text);
CREATE UNIQUE INDEX keyless_a ON keyless (a);
SELECT audit_enable('line');
SELECT audit_enable('keyless', key_columns => '{a}');
INSERT INTO line VALUES (1, 'a"b', 'red');
UPDATE line SET hue = 'green', code = 'c';
INSERT INTO keyless VALUES (5, 'x');
SELECT table_name, op, table_pk, old_pk, changed_from FROM record WHERE table_name <> 'item';

-- Savepoints: what was rolled back never was, what was released is the transaction's.
BEGIN;
INSERT INTO keyless VALUES (6, 'kept');
SAVEPOINT a;
INSERT INTO keyless VALUES (7, 'undone');
ROLLBACK TO a;
SAVEPOINT b;
INSERT INTO keyless VALUES (8, 'released');
RELEASE b;
COMMIT;
SELECT data_after->>'b' FROM record WHERE table_name = 'keyless' AND op = 'insert';

-- A user's trigger with an EXCEPTION block, on the first row, must not take the other rows with it.
CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        UPDATE shapes.line SET hue = 'red';
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    RETURN NULL;
END $$;
CREATE TRIGGER z_fails AFTER INSERT ON keyless FOR EACH ROW EXECUTE FUNCTION fails();
INSERT INTO keyless SELECT g, 'many' FROM generate_series(100, 300) g;
SELECT count(*) FROM record WHERE data_after->>'b' = 'many';
SELECT count(*) FROM record WHERE table_name = 'line';
DROP TRIGGER z_fails ON keyless;

-- A trigger on one row that updates another row of the same statement: the last state is the last statement's.
CREATE FUNCTION cascades() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE shapes.keyless SET b = 'cascaded' WHERE a = NEW.a + 1 AND b = 'first';
    RETURN NULL;
END $$;
CREATE TRIGGER a_cascades AFTER UPDATE ON keyless FOR EACH ROW WHEN (NEW.b = 'first') EXECUTE FUNCTION cascades();
UPDATE keyless SET b = 'first' WHERE a BETWEEN 100 AND 101;
SELECT a, b FROM keyless WHERE a BETWEEN 100 AND 101 ORDER BY a;
SELECT row_data FROM audit_as_of('keyless', 101, 'infinity');

-- Partitions: the parent's name, and an update that moves a row is an update.
CREATE TABLE sale (region text, id int, amount int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE sale_eu PARTITION OF sale FOR VALUES IN ('eu');
CREATE TABLE sale_us (amount int, id int NOT NULL, region text NOT NULL);
ALTER TABLE sale ATTACH PARTITION sale_us FOR VALUES IN ('us');
SELECT audit_enable('sale');
INSERT INTO sale VALUES ('eu', 1, 10);
INSERT INTO sale_us VALUES (20, 2, 'us');
UPDATE sale SET region = 'us', amount = 11 WHERE id = 1;
SELECT table_name, op, table_pk, old_pk, changed_from, data_after FROM record WHERE table_name LIKE 'sale%';

SELECT t.relname, replay_check(t.oid::regclass)->>'verdict' AS verdict
FROM pg_class t WHERE t.relname IN ('item', 'line', 'keyless', 'sale') AND t.relnamespace = 'shapes'::regnamespace ORDER BY 1;
