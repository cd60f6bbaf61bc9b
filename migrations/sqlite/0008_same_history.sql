-- The file's only program migrates it, and reads the newest form of cursors.
update log_state set forms = 3;
insert into compatibility (version, compatible_from) values (8, 8);
