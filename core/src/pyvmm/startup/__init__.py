"""Stand-ins for slow modules of the standard library, which every start imports; and ``--trace-startup``.

The slow modules import each other (re, enum, functools, collections, inspect), so the stand-ins save time as a set: one
slow module back in a start costs most of what the set saves. ``tests/test_start.py`` names the modules that a start
must not import.

Milliseconds of CPU time (user and system), the least of 15 runs in turn of ``python -I -c 'import …'``, less those of
``python -I -c pass``; Debian 12's Python 3.11, two CPUs, 2026-12-01:

=================================  ====
import                               ms
=================================  ====
contextlib                          2.8
threading                           3.0
enum, re                            4.3
socket, signal                      6.2
typing                              7.9
logging                            10.9
dataclasses                        11.8
dataclasses, and 60 classes made   29.5
pluggy                             14.0
click                              21.5
importlib.metadata                 29.1
all of these, no class made        47.4
=================================  ====

A whole start of a machine with a serial port takes 23 ms there, to the guest's first instruction and out.

=====================  =============================  ================================  =====================
stand-in               in place of                    what it lacks                     test (core/tests)
=====================  =============================  ================================  =====================
startup.record         dataclass(frozen=True)         field(), slots, order             startup/test_record
options.records,       dataclass(), get_type_hints()  nested types; defaults that can   options/test_records,
options.value_types                                   be changed                        options/test_options
startup.closing        contextlib.ExitStack           managers that look at the error   startup/test_closing
startup.threads        threading.Thread               thread objects; Python's wait     startup/test_threads
                                                      for threads at its end
logs                   logging.getLogger()            nothing: logging does the work    test_logs
cli.arguments          click                          help, errors: click does them     cli/test_arguments
plugins.entry_points   importlib.metadata             zip files: it is asked for them   plugins/test_plugins
plugins.hooks          pluggy                         all but one hook: pluggy does it  plugins/test_plugins
_socket, _signal       socket, signal                 enums                             host, vhost_user
plugin.Generic         typing.Generic                 anything at run time              plugins/test_plugins
exit_reason.End,       enum.Enum, enum.IntEnum        iteration over the members        test_exit_reason,
vhost_user's Number                                                                     vhost_user
TYPE_CHECKING = False  typing.TYPE_CHECKING           nothing: checkers know the name   tests/test_start
=====================  =============================  ================================  =====================
"""
