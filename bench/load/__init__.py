"""The load: what a scenario's clients do, always in a process of its own.

wrk makes small requests. Where no program to be had by a package name does what is wanted, there is a lean one of our
own: non-blocking sockets and epoll, bodies by sendfile. What it took of the CPU is told beside the figures.
"""
