from training import tiny

clips, as_in_a_new_process = tiny.clips, tiny.as_in_a_new_process
