-- Marks everything there is: for a place that has nothing of it yet. In an order in which it can be read back.
DELETE FROM changes;
INSERT INTO changes (kind, key, at_ms)
  SELECT 'run', id, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM runs ORDER BY id;
INSERT INTO changes (kind, key, at_ms)
  SELECT 'events', id, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM events ORDER BY id;
INSERT INTO changes (kind, key, position, at_ms)
  SELECT kind, id, position, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM (
    SELECT 'session' AS kind, id, NULL AS position FROM sessions
    UNION ALL SELECT 'entry', session, position FROM entries
  ) ORDER BY id, position;
INSERT INTO changes (kind, key, at_ms)
  SELECT 'blob', hash, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM blobs ORDER BY rowid;
INSERT INTO changes (kind, key, at_ms)
  SELECT 'dead_letter', id, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM dead_letters ORDER BY id;
