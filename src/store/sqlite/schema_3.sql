-- Where this database is forwarded to; no row if it is not. `source` is what it is named by there, `begins`
-- the first change that was ever marked for it.
CREATE TABLE forwarding (
  id          INTEGER PRIMARY KEY CHECK (id = 1),
  source      TEXT    NOT NULL,
  destination TEXT    NOT NULL,
  begins      INTEGER NOT NULL
) STRICT;

-- What was changed and is not shipped yet, written by the triggers of src/store/sqlite/forward.sql. `key` is the row's
-- number, a blob's hash, or, of a session that was deleted, its scope and name as a JSON array.
CREATE TABLE changes (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  kind     TEXT    NOT NULL,
  key      ANY     NOT NULL,
  position INTEGER,
  at_ms    INTEGER NOT NULL
) STRICT;
CREATE INDEX changes_by_key ON changes (kind, key);
