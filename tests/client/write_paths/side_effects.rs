//! Writes that nobody typed: foreign keys, triggers, deferred work. And the traps of capturing beside them.

use super::WritePath;

/// A parent, children of every kind of foreign key action, all under capture.
const FAMILY: &str = "CREATE TABLE p (id int PRIMARY KEY, v text);
    CREATE TABLE c (id int PRIMARY KEY, p int DEFAULT 9 REFERENCES p ON DELETE ACTION ON UPDATE ACTION)";

fn family(p: &mut super::Path, action: &str) {
    p.tables(&FAMILY.replace("ACTION", action));
    p.run("INSERT INTO p VALUES (1, 'a'), (2, 'b'), (9, 'default'); INSERT INTO c VALUES (1, 1), (2, 2), (3, 1)");
    p.prepared();
}

pub const PATHS: &[WritePath] = &[
    ("foreign key ON DELETE / ON UPDATE CASCADE", |p| {
        family(p, "CASCADE");
        p.run("DELETE FROM p WHERE id = 1; UPDATE p SET id = 20 WHERE id = 2");
        p.recorded(&["-p 1 a | -c 1 1; -c 3 1 | ~p 2>20 | ~c 2 p:2>20"])
    }),
    ("foreign key ON DELETE / ON UPDATE SET NULL", |p| {
        family(p, "SET NULL");
        p.run("DELETE FROM p WHERE id = 1; UPDATE p SET id = 20 WHERE id = 2");
        p.recorded(&["-p 1 a | ~c 1 p:1>NULL; ~c 3 p:1>NULL | ~p 2>20 | ~c 2 p:2>NULL"])
    }),
    ("foreign key ON DELETE / ON UPDATE SET DEFAULT", |p| {
        family(p, "SET DEFAULT");
        p.run("DELETE FROM p WHERE id = 1; UPDATE p SET id = 20 WHERE id = 2");
        p.recorded(&["-p 1 a | ~c 1 p:1>9; ~c 3 p:1>9 | ~p 2>20 | ~c 2 p:2>9"])
    }),
    ("foreign key NO ACTION that refuses", |p| {
        family(p, "NO ACTION");
        assert_eq!(p.s.failure("DELETE FROM p WHERE id IN (1, 9)").code, "23503");
        p.run("DELETE FROM p WHERE id = 9");
        p.recorded(&["-p 9 default"])
    }),
    ("foreign key to itself, CASCADE through three generations", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t ON DELETE CASCADE)");
        p.run("INSERT INTO t VALUES (1, NULL), (2, 1), (3, 2), (4, NULL)");
        p.prepared();
        p.run("DELETE FROM t WHERE id = 1");
        p.recorded(&["-t 1 NULL | -t 2 1 | -t 3 2"])
    }),
    ("deferred foreign key, broken and mended inside the transaction", |p| {
        p.tables("CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p DEFERRABLE INITIALLY DEFERRED)");
        p.run("BEGIN; INSERT INTO c VALUES (1, 7); INSERT INTO p VALUES (7); COMMIT");
        assert_eq!(p.s.failure("INSERT INTO c VALUES (2, 8)").code, "23503", "refused at commit");
        p.recorded(&["+c 1 7 | +p 7"])
    }),
    ("deferred constraint trigger that writes at commit", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)");
        p.run(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.v = 'a' THEN INSERT INTO u VALUES (NEW.id, 'late'); UPDATE t SET v = 'checked' WHERE id = NEW.id; END IF; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
             BEGIN; INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b'); COMMIT",
        );
        p.recorded(&["+t 1 a | +t 2 b | +u 1 late | ~t 1 v:a>checked"])
    }),
    ("deferred constraint trigger that fails at commit", |p| {
        p.t("");
        p.run(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()",
        );
        assert_eq!(p.s.failure("INSERT INTO t VALUES (1, 'a')").code, "P0001");
        p.recorded(&[])
    }),
    ("SET CONSTRAINTS IMMEDIATE in the middle of a transaction", |p| {
        p.t("");
        p.run(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET v = v || '!' WHERE id = NEW.id; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
             BEGIN; INSERT INTO t VALUES (1, 'a'); SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO t VALUES (2, 'b'); COMMIT",
        );
        p.recorded(&["+t 1 a | ~t 1 v:a>a! | +t 2 b | ~t 2 v:b>b!"])
    }),
    ("BEFORE trigger that alters rows", |p| {
        p.t("(1, 'a')");
        p.run(
            "CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := upper(NEW.v); RETURN NEW; END $$;
             CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION tidy()",
        );
        p.run("INSERT INTO t VALUES (2, 'b'); UPDATE t SET v = v || 'x'");
        p.recorded(&["+t 2 B | ~t 1 v:a>AX; ~t 2 v:B>BX"])
    }),
    ("BEFORE trigger that alters the key", |p| {
        p.t("(1, 'a')");
        p.run(
            "CREATE FUNCTION re_key() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id + 100; RETURN NEW; END $$;
             CREATE TRIGGER re_key BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION re_key()",
        );
        p.run("INSERT INTO t VALUES (2, 'b'); UPDATE t SET v = 'x' WHERE id = 1");
        p.recorded(&["+t 102 b | ~t 1>101 v:a>x"])
    }),
    ("BEFORE trigger that suppresses rows", |p| {
        p.t("(1, 'keep'), (2, 'a')");
        p.run(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF coalesce(OLD.v, NEW.v) = 'keep' THEN RETURN NULL; END IF; RETURN coalesce(NEW, OLD); END $$;
             CREATE TRIGGER keep BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep()",
        );
        p.run("INSERT INTO t VALUES (3, 'keep'), (4, 'b'); UPDATE t SET v = v || 'x'; DELETE FROM t");
        p.recorded(&["+t 4 b | ~t 2 v:a>ax; ~t 4 v:b>bx | -t 2 ax; -t 4 bx"])
    }),
    ("BEFORE trigger that writes another audited table", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)");
        p.run(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO u VALUES (NEW.id, 'before'); RETURN NEW; END $$;
             CREATE TRIGGER note BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION note(); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        );
        // The statement began before what its triggers did.
        p.recorded(&["+t 1 a; +t 2 b | +u 1 before | +u 2 before"])
    }),
    ("AFTER ROW and AFTER STATEMENT triggers that write", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)");
        p.run(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF TG_LEVEL = 'ROW' THEN INSERT INTO u VALUES (NEW.id, 'row'); ELSE UPDATE u SET v = v || ' statement'; END IF; RETURN NULL; END $$;
             CREATE TRIGGER a AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
             CREATE TRIGGER z AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION note(); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        );
        p.recorded(&["+t 1 a; +t 2 b | +u 1 row | +u 2 row | ~u 1 v:row>row statement; ~u 2 v:row>row statement"])
    }),
    ("AFTER trigger with a transition table", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)");
        p.run(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO u SELECT id, v FROM new_rows; RETURN NULL; END $$;
             CREATE TRIGGER a AFTER INSERT ON t REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION note(); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        );
        p.recorded(&["+t 1 a; +t 2 b | +u 1 a; +u 2 b"])
    }),
    ("the order trap: a trigger on row 1 updates row 2 of the same statement", |p| {
        p.t("(1, 'a'), (2, 'b')");
        p.run(
            "CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET v = v || '!' WHERE id = 2; RETURN NULL; END $$;
             CREATE TRIGGER aaa AFTER UPDATE ON t FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION bump(); UPDATE t SET v = v || '+'",
        );
        assert_eq!(p.s.column("SELECT data_after ->> 'v' FROM threadline.audit_history('t', 2)"), ["b+!", "b+", "b"]);
        p.recorded(&["~t 1 v:a>a+; ~t 2 v:b>b+ | ~t 2 v:b+>b+!"])
    }),
    ("the lost-row trap: triggers with an EXCEPTION block beside capture", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)");
        p.run(
            "CREATE FUNCTION risky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 BEGIN INSERT INTO u VALUES (-1, 'doomed'); RAISE EXCEPTION 'never mind'; EXCEPTION WHEN raise_exception THEN NULL; END;
                 BEGIN INSERT INTO u VALUES (NEW.id, TG_NAME); EXCEPTION WHEN unique_violation THEN UPDATE u SET v = v || ' ' || TG_NAME; END;
                 RETURN NULL; END $$;
             CREATE TRIGGER aaa AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION risky(); CREATE TRIGGER zzz AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION risky();
             INSERT INTO t VALUES (1, 'a')",
        );
        p.recorded(&["+t 1 a | +u 1 aaa | ~u 1 v:aaa>aaa zzz"])
    }),
    ("trigger that writes its own table until it stops", |p| {
        p.t("");
        p.run(
            "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id < 4 THEN INSERT INTO t VALUES (NEW.id + 1, 'next'); END IF; RETURN NULL; END $$;
             CREATE TRIGGER again AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION again(); INSERT INTO t VALUES (1, 'first')",
        );
        p.recorded(&["+t 1 first | +t 2 next | +t 3 next | +t 4 next"])
    }),
    ("a function in a column's default that writes", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id serial PRIMARY KEY, v text)");
        p.run(
            "CREATE FUNCTION noted() RETURNS text LANGUAGE sql AS 'INSERT INTO u (v) VALUES ($$default$$) RETURNING v';
             ALTER TABLE t ALTER v SET DEFAULT noted(); INSERT INTO t (id) VALUES (1), (2)",
        );
        p.recorded(&["+t 1 default; +t 2 default | +u 1 default | +u 2 default"])
    }),
    ("a failing CHECK in mid-statement", |p| {
        p.t("(1, 'a')");
        p.run("ALTER TABLE t ADD CHECK (id < 500)");
        assert_eq!(p.s.failure("INSERT INTO t SELECT g, 'x' FROM generate_series(2, 1000) g").code, "23514");
        p.run("INSERT INTO t VALUES (2, 'after')");
        p.recorded(&["+t 2 after"])
    }),
    ("a failing trigger in mid-statement", |p| {
        p.t("(1, 'a')");
        p.run(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
             CREATE TRIGGER zzz AFTER INSERT ON t FOR EACH ROW WHEN (NEW.id = 900) EXECUTE FUNCTION no()",
        );
        assert_eq!(p.s.failure("INSERT INTO t SELECT g, 'x' FROM generate_series(2, 1000) g").code, "P0001");
        p.run("INSERT INTO t VALUES (2, 'after')");
        p.recorded(&["+t 2 after"])
    }),
];
