# like: sched-null
# event-records: yes
