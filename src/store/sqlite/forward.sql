-- Marks what changes, in the transaction that changes it. There only as long as the database is forwarded.
CREATE TRIGGER forward_runs_inserted AFTER INSERT ON runs BEGIN
  INSERT INTO changes (kind, key, at_ms) VALUES ('run', NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER forward_runs_updated AFTER UPDATE ON runs BEGIN
  INSERT INTO changes (kind, key, at_ms) VALUES ('run', NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER forward_events_inserted AFTER INSERT ON events BEGIN
  INSERT INTO changes (kind, key, at_ms) VALUES ('events', NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER forward_events_updated AFTER UPDATE ON events BEGIN
  INSERT INTO changes (kind, key, at_ms) VALUES ('events', NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER forward_sessions_inserted AFTER INSERT ON sessions BEGIN
  INSERT INTO changes (kind, key, at_ms) VALUES ('session', NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER forward_sessions_updated AFTER UPDATE ON sessions BEGIN
  INSERT INTO changes (kind, key, at_ms) VALUES ('session', NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER forward_entries_inserted AFTER INSERT ON entries BEGIN
  INSERT INTO changes (kind, key, position, at_ms)
    VALUES ('entry', NEW.session, NEW.position, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER forward_blobs_inserted AFTER INSERT ON blobs BEGIN
  INSERT INTO changes (kind, key, at_ms) VALUES ('blob', NEW.hash, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER forward_dead_letters_inserted AFTER INSERT ON dead_letters BEGIN
  INSERT INTO changes (kind, key, at_ms) VALUES ('dead_letter', NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
