"""A world behind a socket: sessions for programs, a page for people, one batch for all (`wcsim serve`).

Needs the extra `serve`.  Easy to get wrong: whoever connects is a stranger.  Requests are checked in
`wcsim.serve.requests` before a session sees them, and no path, name of a module or pickle ever comes from one.
"""
